package config

import (
	"fmt"
	"slices"
	"strings"
)

// Overlay, in Config.Metrics, is this node's overlay address on the overlay interface.
const Overlay = "overlay"

// metricsAt splits the word for where metrics are served: addresses and "overlay" with commas between, or "off".
func metricsAt(s string) ([]string, error) {
	if s == "off" {
		return nil, nil
	}
	var out []string
	for at := range strings.SplitSeq(s, ",") {
		at = strings.TrimSpace(at)
		if at != Overlay {
			if err := listenAddr(at); err != nil {
				return nil, fmt.Errorf("--metrics %q: %w; or say 'overlay' or 'off'", s, err)
			}
		}
		if slices.Contains(out, at) {
			return nil, fmt.Errorf("--metrics %q: %s is there twice; name each place once, or say 'overlay' or 'off'", s, at)
		}
		out = append(out, at)
	}
	return out, nil
}

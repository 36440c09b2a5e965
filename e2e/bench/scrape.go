//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/gridwire/gridwire/e2e/lab"
)

// scrape reads a host's metrics page.
func scrape(ctx context.Context, h *lab.Host) (string, error) {
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = net.Dial("tcp", "127.0.0.1:9586")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("scrape %s: %w", h.Label(), err)
	}
	defer conn.Close()
	t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("scrape %s: %w", h.Label(), err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

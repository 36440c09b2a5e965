//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

const (
	dnsMembers = 3
	dnsTarget  = 50_000 // answers a second
)

// dnsRun is what dnsperf says of one run.
type dnsRun struct{ sent, lost, rate float64 }

var dnsperfLine = regexp.MustCompile(`Queries (sent|lost|per second): +([0-9.]+)`)

// dnsperf has a host ask a server for some time, as fast as it can, or at a rate.
func dnsperf(ctx context.Context, h *lab.Host, server, questions string, length time.Duration, rate int) (dnsRun, error) {
	args := []string{"-s", server, "-d", questions, "-l", seconds(length), "-c", "8", "-T", "2", "-q", "400", "-t", "2"}
	if rate > 0 {
		args = append(args, "-Q", strconv.Itoa(rate))
	}
	out, err := h.Exec(ctx, "dnsperf", args...)
	if err != nil {
		return dnsRun{}, err
	}
	r := dnsRun{lost: -1}
	for _, m := range dnsperfLine.FindAllStringSubmatch(string(out), -1) {
		v, _ := strconv.ParseFloat(m[2], 64)
		switch m[1] {
		case "sent":
			r.sent = v
		case "lost":
			r.lost = v
		default:
			r.rate = v
		}
	}
	if r.sent == 0 || r.lost < 0 || r.rate == 0 {
		return r, fmt.Errorf("what dnsperf says was not understood:\n%s", out)
	}
	return r, nil
}

// measureDNS asks a node's name server from the node itself, as its programs do: members that exist, services that nobody has, addresses.
func measureDNS(ctx context.Context, b *bench) error {
	w, err := b.newWorld("dns", "warn", 0)
	if err != nil {
		return err
	}
	defer w.Close()
	hosts := make([]*lab.Host, dnsMembers)
	for i := range hosts {
		if hosts[i], err = w.Public(fmt.Sprintf("m%d", i)); err != nil {
			return err
		}
		if i == 0 {
			_, err = w.found(ctx, hosts[i])
		} else {
			_, err = w.join(ctx, hosts[i])
		}
		if err != nil {
			return err
		}
	}
	if err := w.linked(ctx, hosts[0], hosts[1:]...); err != nil {
		return err
	}
	s, err := hosts[0].Status(ctx)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for i := range dnsMembers {
		fmt.Fprintf(&lines, "m%d.farm.internal AAAA\nm%d.farm.internal A\n", i, i)
	}
	fmt.Fprintf(&lines, "nobody.farm.internal AAAA\n_http._tcp.farm.internal SRV\n")
	dir, err := os.MkdirTemp("", "gridwire-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	questions := filepath.Join(dir, "questions")
	if err := os.WriteFile(questions, []byte(lines.String()), 0o644); err != nil {
		return err
	}
	for _, a := range s.Self.Addresses {
		family := "IPv6"
		if a.Addr().Is4() {
			family = "IPv4"
		}
		if err := b.askFor(ctx, hosts[0], a.Addr().String(), questions, family); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) askFor(ctx context.Context, h *lab.Host, server, questions, family string) error {
	var fastest, lost []float64
	for range min(b.rounds, 9) {
		err := b.alone(func() error {
			r, err := dnsperf(ctx, h, server, questions, b.length, 0)
			if err != nil {
				return err
			}
			half, err := dnsperf(ctx, h, server, questions, b.length, dnsTarget/2)
			fastest, lost = append(fastest, r.rate), append(lost, half.lost+max(0, 0.9*dnsTarget/2*b.length.Seconds()-half.sent))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.reaches("DNS over "+family+": answers for names of the mesh", "/s", "%.0f", fastest, dnsTarget)
	b.worst(fmt.Sprintf("DNS over %s: questions lost of %d a second", family, dnsTarget/2), "", "%.0f", lost, 0)
	return nil
}

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	scrapes     = 200  // that are timed
	manyScrapes = 1000 // after which memory must be as before
)

// measureScrape measures what a scrape of an agent with 200 peers costs, every series of theirs included.
func measureScrape(ctx context.Context, b *bench) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, crowdCommand)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("start the metrics of %d peers: %w", crowdSize, err)
	}
	p := &scraped{url: "http://" + strings.TrimSpace(addr) + "/metrics", pid: cmd.Process.Pid}
	return b.alone(func() error { return p.measure(ctx, b) })
}

// scraped is the process that is asked.
type scraped struct {
	url string
	pid int
}

func (p *scraped) measure(ctx context.Context, b *bench) error {
	page, _, err := p.get(ctx, false)
	if err != nil {
		return err
	}
	series := bytes.Count(page, []byte("\ngridwire_"))
	what := fmt.Sprintf("scrape with %d peers, %d series: ", crowdSize, series)
	for _, zipped := range []bool{true, false} {
		name, n := "not compressed", scrapes
		if zipped {
			name = "compressed, as Prometheus asks for it"
		}
		var took, size []float64
		before, err := cpuTime(p.pid)
		if err != nil {
			return err
		}
		for range n {
			start := time.Now()
			page, wire, err := p.get(ctx, zipped)
			if err != nil {
				return err
			}
			took = append(took, float64(time.Since(start).Microseconds())/1000)
			size = append(size, float64(wire)/1e6)
			if got := bytes.Count(page, []byte("\ngridwire_")); got < series*9/10 {
				return fmt.Errorf("a scrape has %d series, the first had %d", got, series)
			}
		}
		after, err := cpuTime(p.pid)
		if err != nil {
			return err
		}
		b.atMost(what+"time, "+name, " ms", "%.1f", took, 20)
		b.atMost(what+"size, "+name, " MB", "%.3f", size, 1)
		b.inform(what+"processor time, "+name, " ms", "%.1f", []float64{(after - before).Seconds() * 1000 / float64(n)})
	}
	return p.memory(ctx, b, what)
}

// memory compares the resident set before and after many scrapes.
func (p *scraped) memory(ctx context.Context, b *bench, what string) error {
	before, _, err := resident(p.pid)
	if err != nil {
		return err
	}
	for range manyScrapes {
		if _, _, err := p.get(ctx, true); err != nil {
			return err
		}
	}
	after, _, err := resident(p.pid)
	if err != nil {
		return err
	}
	b.inform(what+"resident memory before", " MB", "%.1f", []float64{before / 1e6})
	b.worst(what+fmt.Sprintf("growth of the resident memory over %d further scrapes", manyScrapes), " MB", "%.1f", []float64{(after - before) / 1e6}, 2)
	return nil
}

// get scrapes once, as Prometheus does, and returns the page and how many bytes it was on the wire.
func (p *scraped) get(ctx context.Context, zipped bool) (page []byte, wire int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
	req.Header.Set("Accept-Encoding", "identity")
	if zipped {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("scrape: %s: %w", resp.Status, err)
	}
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return body, len(body), nil
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	page, err = io.ReadAll(z)
	return page, len(body), err
}

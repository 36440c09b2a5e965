//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

const (
	startLimit = 15 * time.Second
	linkLimit  = 30 * time.Second
)

// world is a lab with a mesh in it.
type world struct {
	*lab.Lab
	founder *lab.Host
}

func (b *bench) newWorld(name, logLevel string, delay time.Duration) (*world, error) {
	o := lab.Options{Binary: b.binary, LogLevel: logLevel, Delay: delay}
	if b.logs != "" {
		o.Dir = filepath.Join(b.logs, name)
	}
	l, err := lab.New(o)
	if err != nil {
		return nil, err
	}
	return &world{Lab: l}, nil
}

var home = lab.NATConfig{Kind: lab.PortRestricted}

// home makes a host behind a port-restricted router of its own.
func (w *world) home(name string) (*lab.Host, *lab.Router, error) {
	r, err := w.Router(name+"-r", home, nil)
	if err != nil {
		return nil, nil, err
	}
	h, err := r.Host(name)
	return h, r, err
}

// found makes h the first member and starts its agent.
func (w *world) found(ctx context.Context, h *lab.Host) (*lab.Agent, error) {
	return w.foundWith(ctx, h, noMetrics...)
}

// noMetrics: several agents on one host would want one port.
var noMetrics = []string{"--metrics", "off"}

func (w *world) foundWith(ctx context.Context, h *lab.Host, args ...string) (*lab.Agent, error) {
	if _, err := h.Gridwire(ctx, "init", "farm", "--node", h.Label()); err != nil {
		return nil, err
	}
	w.founder = h
	return w.start(ctx, h, args...)
}

func (w *world) start(ctx context.Context, h *lab.Host, args ...string) (*lab.Agent, error) {
	a, err := h.StartAgent(args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return a, a.WaitReady(ctx)
}

func (w *world) token(ctx context.Context, name string) (string, error) {
	out, err := w.founder.Gridwire(ctx, "invite", "--name", name)
	return out[strings.LastIndexByte(out, '\n')+1:], err
}

// join makes h a member and waits until its agent runs.
func (w *world) join(ctx context.Context, h *lab.Host) (*lab.Agent, error) {
	return w.joinWith(ctx, h, noMetrics...)
}

func (w *world) joinWith(ctx context.Context, h *lab.Host, args ...string) (*lab.Agent, error) {
	token, err := w.token(ctx, h.Label())
	if err != nil {
		return nil, err
	}
	return w.start(ctx, h, append([]string{"--join", token}, args...)...)
}

// linked waits until a has a link to each of the others.
func (w *world) linked(ctx context.Context, a *lab.Host, others ...*lab.Host) error {
	for _, o := range others {
		if _, err := a.Gridwire(ctx, "wait", "--peer", o.Label(), "--timeout", linkLimit.String()); err != nil {
			return err
		}
	}
	return nil
}

// overlay returns h's overlay IPv6 address.
func overlay(ctx context.Context, h *lab.Host) (netip.Addr, error) {
	s, err := h.Status(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(s.Self.Addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no overlay address", h.Label())
	}
	return s.Self.Addresses[0].Addr(), nil
}

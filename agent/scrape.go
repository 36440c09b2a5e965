package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/metrics"
)

const metricsPort = 9586

// metrics serves /metrics until ctx ends.
func (n report) metrics(ctx context.Context) error {
	if n.cfg.Metrics == "off" {
		<-ctx.Done()
		return nil
	}
	l, err := n.listenMetrics(ctx)
	if err != nil {
		// A farmer's link must not fail because a port is taken by another agent on the machine.
		n.log.Warn("metrics are off", "err", err)
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(n.scrape))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// listenMetrics binds the configured address, or with "overlay" this node's overlay address on the overlay interface alone.
func (n report) listenMetrics(ctx context.Context) (net.Listener, error) {
	if n.cfg.Metrics != "overlay" {
		l, err := net.Listen("tcp", n.cfg.Metrics)
		if errors.Is(err, syscall.EACCES) {
			return nil, fmt.Errorf("ports below 1024 need the capability CAP_NET_BIND_SERVICE, which this process lacks: %w", err)
		}
		return l, err
	}
	_, leaf, _, err := n.membership.Load().Leaf()
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), n.cfg.Interface) })
		return errors.Join(err, serr)
	}}
	return lc.Listen(ctx, "tcp", netip.AddrPortFrom(leaf.Addrs[0], metricsPort).String())
}

func (n report) scrape(ctx context.Context) metrics.Snapshot {
	view := n.dir.View()
	s := metrics.Snapshot{
		Version: Version, NAT: string(n.reach.prober.Report().Type), Members: view.Len(), ControlConnections: len(n.control.Connections()),
	}
	if _, leaf, _, err := n.membership.Load().Leaf(); err == nil {
		s.CertificateExpires = leaf.NotAfter
	}
	for q, c := range n.names.queries() {
		s.Queries = append(s.Queries, metrics.Queries{Type: q.Type, RCode: q.RCode, Count: c})
	}
	table := n.links.Snapshot(ctx)
	for p := range view.Peers() {
		s.Peers = append(s.Peers, metrics.Peer{Name: string(p.Name), Status: table[p.ID]})
	}
	return s
}

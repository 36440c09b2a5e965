package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/ledger"
	"github.com/gridwire/gridwire/agent/links"
	"github.com/gridwire/gridwire/agent/metrics"
	"github.com/gridwire/gridwire/mesh"
)

// metrics serves /metrics and /sd until ctx ends.
func (n report) metrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(n.scrape))
	mux.Handle("GET /sd", metrics.Discovery(n.targets))
	var serving sync.WaitGroup
	defer serving.Wait()
	for _, at := range n.cfg.Metrics {
		var h http.Handler = mux
		if at == config.Overlay {
			h = n.membersOnly(mux)
		}
		l, err := n.listenMetrics(ctx, at)
		if err != nil {
			// A farmer's link must not fail because a port is taken by another agent on the machine.
			n.log.Warn("metrics are not served here", "at", at, "err", err)
			continue
		}
		serving.Go(func() {
			if err := serve(ctx, l, h); err != nil {
				n.log.Warn("metrics are no longer served", "at", at, "err", err)
			}
		})
	}
	<-ctx.Done()
	return nil
}

// serve answers until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// membersOnly refuses whoever is not a member. WireGuard has proven that a source address belongs to the member that sent the packet, but
// a member may also pass on packets of a network behind it, and those are none of the mesh's.
func (n report) membersOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !isMember(n.dir.View(), from.Addr().Unmap()) {
			http.Error(w, "metrics are for members of the network: "+r.RemoteAddr+" is not a member's address", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isMember reports whether a is an address of a member or of something that a member runs.
func isMember(v *mesh.View, a netip.Addr) bool {
	for m := range v.All() {
		if m.Block.Contains(a) || slices.Contains(m.Addrs, a) {
			return true
		}
	}
	return false
}

// listenMetrics binds an address, or for config.Overlay this node's overlay address on the overlay interface alone.
func (n report) listenMetrics(ctx context.Context, at string) (net.Listener, error) {
	if at != config.Overlay {
		l, err := net.Listen("tcp", at)
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
	return lc.Listen(ctx, "tcp", netip.AddrPortFrom(leaf.Addrs[0], metrics.Port).String())
}

// targets are all members, for service discovery.
func (n report) targets() (string, []metrics.Member) {
	view := n.dir.View()
	out := make([]metrics.Member, 0, view.Len())
	for m := range view.All() {
		if len(m.Addrs) == 0 {
			continue
		}
		out = append(out, metrics.Member{
			Name: string(m.Name), ID: m.ID.String(), Version: m.Software, Addr: m.Addrs[0], Tags: m.Tags, NAT: m.NAT, Issuer: m.Issuer, Self: m.ID == view.Self,
		})
	}
	return string(n.root.Network.Name), out
}

func (n report) scrape(ctx context.Context) metrics.Snapshot {
	view, now := n.dir.View(), time.Now()
	s := metrics.Snapshot{
		Now: now, Started: n.meters.started, Version: Version, NAT: string(n.reach.prober.Report().Type), Members: view.Len(),
		ControlConnections: len(n.control.Connections()), Interfaces: n.speeds(), Workloads: n.workloads.samples(ctx),
	}
	s.ProbesSent, s.ProbeBytes = n.links.Cost()
	if _, leaf, _, err := n.membership.Load().Leaf(); err == nil {
		s.CertificateExpires = leaf.NotAfter
	}
	for q, c := range n.names.queries() {
		s.DNS.Queries = append(s.DNS.Queries, metrics.Queries{Type: q.Type, RCode: q.RCode, Count: c})
	}
	s.DNS.Serving, s.DNS.Resolver = n.names.gauges()
	table := n.links.Snapshot(ctx)
	n.meters.ledger.Record(now, counting(n).read(table))
	for i := range s.Workloads {
		w := &s.Workloads[i]
		w.Traffic = n.meters.ledger.Total(ledger.WorkloadKey(mesh.Name(w.Name))).Counters
	}
	skews := n.control.Skew()
	paths := n.pmtu.Paths()
	disputed := n.usage.book.Disputed()
	for p := range view.Peers() {
		row := metrics.Peer{
			Name: string(p.Name), Status: table[p.ID], Traffic: n.meters.ledger.Total(ledger.PeerKey(p.ID)).Counters, LastSeen: seen(p, table[p.ID], skews, now), MTU: paths[p.ID].MTU,
		}
		if skew, ok := skews[p.ID]; ok {
			row.Skew = &skew
		}
		if d, ok := disputed[p.ID]; ok {
			row.Disputed = &d
		}
		s.Peers = append(s.Peers, row)
	}
	return s
}

// seen is a member's newest sign of life: a packet, or a record that it has signed, whose time is by its own clock. Where that is ahead and nobody
// knows by how much, a packet counts alone: a record from the future would make a member that is off look well until then.
func seen(m *mesh.Member, l links.Status, skews map[mesh.NodeID]time.Duration, now time.Time) time.Time {
	signed := m.Updated.Add(-skews[m.ID])
	if signed.After(now) && !l.LastHeard.IsZero() || l.LastHeard.After(signed) {
		signed = l.LastHeard
	}
	if signed.After(now) {
		return now
	}
	return signed
}

// speeds are those of the network interfaces that are up, where the kernel knows them (not of wireless and most virtual ones).
func (n report) speeds() (out []metrics.Interface) {
	for _, l := range n.netmon.State().Links {
		b, err := os.ReadFile("/sys/class/net/" + l.Name + "/speed") // in Mbit/s, or -1
		if err != nil || !l.Up {
			continue
		}
		if mbit, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && mbit > 0 {
			out = append(out, metrics.Interface{Name: l.Name, Speed: float64(mbit) * 1e6 / 8})
		}
	}
	return out
}

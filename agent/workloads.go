package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/metrics"
	"github.com/gridwire/gridwire/agent/workload"
	"github.com/gridwire/gridwire/agent/workload/host"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

// workloads connects what is attached to this node with its record, its routes and its names, and answers the command line about it.
type workloads struct {
	*workload.Keeper
	n *node
}

func newWorkloads(n *node) *workloads {
	w := &workloads{n: n}
	w.Keeper = workload.New(workload.Config{
		Interface: n.cfg.Interface, Store: n.store, Node: w.node, Fits: w.fits, Changed: n.self.nudge, Now: time.Now, Log: n.log.With("part", "workload"),
		Host: host.New(host.Config{
			Interface: n.cfg.Interface, Overlay: n.root.Network.IPv6, Node: w.nodeAddrs, MTU: n.cfg.MTU, Router: n.router, Serve: n.names.Through,
			Log: n.log.With("part", "workload"),
		}),
	})
	return w
}

// run keeps the workloads until ctx ends. When the node leaves its network they go: their addresses were the network's.
func (w *workloads) run(ctx context.Context) error {
	err := w.Run(ctx)
	select {
	case <-w.n.left.ch:
		err = errors.Join(err, w.Purge())
	default:
	}
	return err
}

// node is what this node's certificate lets it give.
func (w *workloads) node() workload.Node {
	n := w.n
	out := workload.Node{Block: mesh.Block(n.root.Network.ID, n.membership.Load().ID())}
	if me, ok := n.dir.View().Me(); ok {
		out.Routes = me.Routes
	} else if _, leaf, _, err := n.membership.Load().Leaf(); err == nil {
		out.Routes = leaf.Routes
	}
	if len(out.Routes) > 0 {
		out.IPv4 = host.Free(out.Routes, n.cfg.Interface)
	}
	return out
}

// nodeAddrs are this node's own overlay addresses, as they are in use.
func (w *workloads) nodeAddrs() []netip.Addr {
	_, leaf, _, err := w.n.membership.Load().Leaf()
	if err != nil {
		return nil
	}
	return report{w.n}.addrs(leaf.Addrs)
}

// has reports whether a is the address of one of this node's workloads.
func (w *workloads) has(a netip.Addr) bool {
	if a.Is6() && !mesh.Block(w.n.root.Network.ID, w.n.membership.Load().ID()).Contains(a) {
		return false
	}
	ws, _ := w.Announced()
	return slices.ContainsFunc(ws, func(x mesh.Workload) bool { return slices.Contains(x.Addrs, a) })
}

// recordSlack is kept free in the record for what else may grow: endpoints, and the certificates of another issuer.
const recordSlack = 4 << 10

// fits says why a record with these workloads would be refused by others.
func (w *workloads) fits(ws []mesh.Workload) error {
	if err := mesh.CheckWorkloads(ws); err != nil {
		return err
	}
	was := &wire.Record{}
	if err := proto.Unmarshal(w.n.self.record().GetRecord(), was); err != nil {
		return fmt.Errorf("this node's own record: %w", err)
	}
	was.Workloads = wire.Workloads(ws)
	if size := proto.Size(was) + recordSlack; size > wire.MaxRecord {
		return fmt.Errorf("with it, what this node announces would take %d bytes, and %d are allowed: remove a workload, or use shorter names and fewer ports",
			size, wire.MaxRecord)
	}
	return nil
}

// asAPIError gives a refusal the code that the command line turns into its exit status.
func asAPIError(err error) error {
	for kind, code := range map[error]api.Code{workload.ErrInvalid: api.CodeUsage, workload.ErrRefused: api.CodeRefused, workload.ErrUnknown: api.CodeMissing} {
		if errors.Is(err, kind) {
			return &api.Error{Code: code, Message: err.Error()}
		}
	}
	return err
}

// request checks what the command line sent.
func workloadRequest(r api.WorkloadRequest) (workload.Request, error) {
	usage := func(err error) (workload.Request, error) {
		return workload.Request{}, &api.Error{Code: api.CodeUsage, Message: err.Error()}
	}
	out := workload.Request{Netns: r.Netns, Rename: r.Rename, Owner: (*workload.Owner)(r.Owner)}
	var err error
	if out.Name, err = mesh.ParseName(r.Name); err != nil {
		return usage(fmt.Errorf("workload: %w", err))
	}
	if r.Address != "" {
		if out.Address, err = netip.ParseAddr(r.Address); err != nil {
			return usage(fmt.Errorf("address %q is no IPv4 or IPv6 address", r.Address))
		}
		out.Address = out.Address.Unmap()
	}
	for _, text := range r.Ports {
		p, err := mesh.ParsePort(text)
		if err != nil {
			return usage(err)
		}
		out.Ports = append(out.Ports, p)
	}
	return out, nil
}

func (w *workloads) plan(ctx context.Context, r api.WorkloadRequest) (*api.WorkloadPlan, error) {
	req, err := workloadRequest(r)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("look at the agent's own network namespace: %w", err)
	}
	i, err := w.Plan(ctx, req)
	if err != nil {
		return nil, asAPIError(err)
	}
	net := w.n.root.Network
	p := &api.WorkloadPlan{
		Name: string(i.Name), DNSName: w.dnsName(i.Name), Interface: i.Interface, Addresses: prefixes(i.Addrs), Gateway: host.Gateway.String(),
		Overlay: []string{net.IPv6.String()}, Routes: []string{}, MTU: w.n.cfg.MTU, Namespace: st.Sys().(*syscall.Stat_t).Ino, DNS: []string{}, Domain: net.Domain,
	}
	if net.IPv4.IsValid() && w.n.router.IPv4Off() == "" {
		p.Overlay = append(p.Overlay, net.IPv4.String())
	}
	seen := map[netip.Prefix]bool{}
	for m := range w.n.dir.View().All() {
		for _, r := range m.Routes {
			if !seen[r] {
				seen[r] = true
				p.Routes = append(p.Routes, r.String())
			}
		}
	}
	slices.Sort(p.Routes)
	for _, a := range w.nodeAddrs() {
		if a.Is6() || len(i.Addrs) > 1 { // IPv4 only for those who have it
			p.DNS = append(p.DNS, a.String())
		}
	}
	return p, nil
}

// dnsName is the full name under this node's.
func (w *workloads) dnsName(name mesh.Name) string {
	node := ""
	if me, ok := w.n.dir.View().Me(); ok {
		node = string(me.Name)
	} else if _, leaf, _, err := w.n.membership.Load().Leaf(); err == nil {
		node = string(leaf.Name)
	}
	return strings.Join([]string{string(name), node, w.n.root.Network.Domain}, ".")
}

func (w *workloads) commit(ctx context.Context, r api.WorkloadRef) (*api.Workload, error) {
	s, err := w.Commit(ctx, mesh.Name(r.Name))
	return w.row(s, err)
}

func (w *workloads) add(ctx context.Context, r api.WorkloadRequest) (*api.Workload, error) {
	req, err := workloadRequest(r)
	if err != nil {
		return nil, err
	}
	if !req.Address.IsValid() {
		return nil, &api.Error{Code: api.CodeUsage, Message: "an address is missing"}
	}
	s, err := w.Add(ctx, req)
	return w.row(s, err)
}

func (w *workloads) row(s *workload.Status, err error) (*api.Workload, error) {
	if err != nil {
		return nil, asAPIError(err)
	}
	row := w.rowOf(*s)
	if what := host.Obstacle(); what != "" {
		row.Note = "another firewall of this machine drops what passes through it unless a rule lets it through, workloads' packets too: " + what
	}
	return &row, nil
}

func (w *workloads) rowOf(s workload.Status) api.Workload {
	row := api.Workload{
		Name: string(s.Name), DNSName: w.dnsName(s.Name), Kind: "netns", Addresses: prefixes(s.Addrs), Ports: []string{},
		Health: string(s.Health), Reason: s.Reason, Since: s.Since.UTC(), Netns: s.Netns, Interface: s.Interface, Owner: (*api.WorkloadOwner)(s.Owner),
		ReceiveBytes: s.RxBytes, TransmitBytes: s.TxBytes, ReceivePackets: s.RxPackets, TransmitPackets: s.TxPackets,
	}
	if s.Interface == "" {
		row.Kind = "address"
	}
	for _, p := range s.Ports {
		row.Ports = append(row.Ports, p.String())
	}
	return row
}

func (w *workloads) remove(ctx context.Context, r api.WorkloadRef) error {
	if r.Owner != nil {
		return asAPIError(w.RemoveOwned(ctx, workload.Owner(*r.Owner)))
	}
	name, err := mesh.ParseName(r.Name)
	if err != nil {
		return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("workload: %v", err)}
	}
	return asAPIError(w.Remove(ctx, name))
}

func (w *workloads) retain(ctx context.Context, r api.WorkloadKeep) error {
	var keep []workload.Owner
	for _, o := range r.Keep {
		keep = append(keep, workload.Owner(o))
	}
	return asAPIError(w.Retain(ctx, r.Network, keep))
}

func (w *workloads) list(ctx context.Context) ([]api.Workload, error) {
	all, err := w.List(ctx)
	out := []api.Workload{}
	for _, s := range all {
		out = append(out, w.rowOf(s))
	}
	return out, err
}

// samples are what metrics show; the ledger has their traffic.
func (w *workloads) samples(ctx context.Context) []metrics.Workload {
	all, err := w.List(ctx)
	if err != nil {
		return nil // the agent is stopping
	}
	var out []metrics.Workload
	for _, s := range all {
		out = append(out, metrics.Workload{Name: string(s.Name), Up: s.Health == workload.Up})
	}
	return out
}

// workloadHandlers are the control socket's answers about workloads.
func (a *Agent) workloadHandlers() api.WorkloadHandlers {
	return api.WorkloadHandlers{
		List: func(ctx context.Context) ([]api.Workload, error) {
			w, err := a.workloads()
			if err != nil {
				return nil, err
			}
			return w.list(ctx)
		},
		Plan:   ofWorkloads(a, (*workloads).plan),
		Commit: ofWorkloads(a, (*workloads).commit),
		Add:    ofWorkloads(a, (*workloads).add),
		Cancel: doWorkloads(a, func(w *workloads, ctx context.Context, r api.WorkloadRef) error {
			return w.Cancel(ctx, mesh.Name(r.Name))
		}),
		Remove: doWorkloads(a, (*workloads).remove),
		GC:     doWorkloads(a, (*workloads).retain),
	}
}

func (a *Agent) workloads() (*workloads, error) {
	n := a.node.Load()
	if n == nil {
		return nil, errNotMember
	}
	return n.workloads, nil
}

func ofWorkloads[Q, R any](a *Agent, f func(*workloads, context.Context, Q) (*R, error)) func(context.Context, Q) (*R, error) {
	return func(ctx context.Context, q Q) (*R, error) {
		w, err := a.workloads()
		if err != nil {
			return nil, err
		}
		return f(w, ctx, q)
	}
}

func doWorkloads[Q any](a *Agent, f func(*workloads, context.Context, Q) error) func(context.Context, Q) error {
	return func(ctx context.Context, q Q) error {
		w, err := a.workloads()
		if err != nil {
			return err
		}
		return f(w, ctx, q)
	}
}

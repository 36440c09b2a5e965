package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const (
	stateFile = "workloads"
	// lookEvery bounds how late is noticed what the system does not tell: routes that go, a certificate with other prefixes.
	lookEvery = 2 * time.Second
)

// Store keeps the list; mesh/store.Store is one.
type Store interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error
}

// Host is the host's side of the workloads' interfaces. Its methods are called from one goroutine and answer at once.
type Host interface {
	// Apply makes exactly these interfaces the workloads', with exactly these source addresses allowed; it may be called again and again.
	// Interfaces that do not exist are left out.
	Apply(Wiring) error
	// Look lists the interfaces whose names begin with prefix.
	Look(prefix string) (map[string]Link, error)
	// Reach says by which interface packets to a leave, or why they cannot.
	Reach(a netip.Addr) (iface, why string)
	// Delete removes an interface; it is no error if there is none.
	Delete(iface string) error
	// Watch tells of changes of the system's interfaces and routes until ctx ends. It never blocks on the reader.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// Link is one interface of ours.
type Link struct {
	Up  bool   // both ends, and the other one answers
	Why string // not, if there is more to say
	Counters
}

// Wiring is what the host is to have.
type Wiring struct {
	Attached map[string][]netip.Addr // veth interfaces, and the addresses behind each
	Shared   map[string][]netip.Addr // other interfaces, behind which there are overlay addresses too
	Own      []netip.Prefix          // this node's routed prefixes: workloads may talk to them
	Forward  bool                    // packets pass through this machine
}

// Config is all that a keeper needs; nothing may be nil.
type Config struct {
	Interface string
	Store     Store
	Host      Host
	Node      func() Node                 // never blocks
	Fits      func([]mesh.Workload) error // why a record that names these would be refused
	Changed   func()                      // what is announced has changed; must not block
	Now       func() time.Time
	Log       *slog.Logger
}

// Keeper owns the list of workloads.
type Keeper struct {
	cfg       Config
	asks      chan func(*core)
	announced atomic.Pointer[[]mesh.Workload]
	ended     chan struct{} // nobody answers any more, because of why
	why       error
	applied   bool // there is or was something on the host's side; Run's goroutine alone uses it
}

// New starts nothing.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, asks: make(chan func(*core)), ended: make(chan struct{})}
}

// Announced are the workloads that are up now; not known before they have been looked at once. It never blocks.
func (k *Keeper) Announced() (ws []mesh.Workload, known bool) {
	if p := k.announced.Load(); p != nil {
		return *p, true
	}
	return nil, false
}

// Run keeps the list until ctx ends. The interfaces stay: workloads outlive the agent.
func (k *Keeper) Run(ctx context.Context) error {
	end := sync.OnceFunc(func() { close(k.ended) })
	defer end()
	k.why = errors.New("the agent is stopping")
	c := newCore(k.cfg.Interface)
	b, err := k.cfg.Store.Read(stateFile)
	if err == nil {
		err = c.load(b, k.cfg.Now())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Links need no workloads. Nothing is removed that the list may still name.
		k.cfg.Log.Error("workloads are off on this node: their list cannot be read; without a copy of it, remove the file, restart the agent and attach them again", "err", err)
		k.why = err
		end()
		<-ctx.Done()
		return nil
	}
	news, err := k.cfg.Host.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch for vanishing namespaces: %w", err)
	}
	k.sweep(c)
	k.look(c)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		look := tick.C
		if len(c.items)+len(c.pending) == 0 && !k.applied {
			look = nil // most machines have no workloads, and need not wake up for them
		}
		select {
		case <-ctx.Done():
			return nil
		case ask := <-k.asks:
			ask(c)
			continue
		case <-news:
		case <-look:
			for _, i := range c.overdue(k.cfg.Now()) {
				k.drop(i.Interface)
			}
		}
		k.look(c)
	}
}

// sweep removes interfaces that nobody committed before the agent ended.
func (k *Keeper) sweep(c *core) {
	links, err := k.cfg.Host.Look(InterfacePrefix(k.cfg.Interface))
	if err != nil {
		k.cfg.Log.Warn("could not look for leftover workload interfaces", "err", err)
		return
	}
	for _, e := range c.items {
		delete(links, e.Interface)
	}
	for name := range links {
		k.cfg.Log.Info("removing an interface that belongs to no workload", "interface", name)
		k.drop(name)
	}
}

func (k *Keeper) drop(iface string) {
	if iface == "" {
		return
	}
	if err := k.cfg.Host.Delete(iface); err != nil {
		k.cfg.Log.Warn("could not remove a workload's interface", "interface", iface, "err", err)
	}
}

// look brings health, the host's side and what is announced up to date.
func (k *Keeper) look(c *core) error {
	if len(c.items) == 0 && !k.applied {
		k.announce(nil) // there never was one: nothing is changed on a machine without workloads
		return nil
	}
	k.applied = true
	node := k.cfg.Node()
	s, shared, err := k.sight(c)
	if err != nil {
		k.cfg.Log.Warn("could not look after the workloads", "err", err)
		return err
	}
	was := map[mesh.Name]Health{}
	for n, e := range c.items {
		was[n] = e.health
	}
	gone := c.observe(s, node, k.cfg.Now())
	for n, e := range c.items {
		if e.health != was[n] {
			k.cfg.Log.Info("workload", "name", n, "health", e.health, "reason", e.reason)
		}
	}
	for _, n := range gone {
		c.remove(n)
	}
	if len(gone) > 0 {
		err = k.save(c)
	}
	w := Wiring{Attached: map[string][]netip.Addr{}, Shared: map[string][]netip.Addr{}, Own: node.Routes, Forward: len(c.items) > 0}
	for _, e := range c.items {
		switch _, there := s.links[e.Interface]; {
		case e.health == Refused:
		case e.Interface == "":
			// What is on lo is this machine itself, which may use each of its addresses: a filter there would cut off the node's own.
			if iface := shared[e.Addrs[0]]; iface != "" && iface != loopback && node.Block.Contains(e.Addrs[0]) {
				w.Shared[iface] = append(w.Shared[iface], e.Addrs[0])
			}
		case there:
			w.Attached[e.Interface] = e.Addrs
		}
	}
	if aerr := k.cfg.Host.Apply(w); aerr != nil {
		k.cfg.Log.Warn("could not set up the host's side of the workloads", "err", aerr)
		err = errors.Join(err, aerr)
	}
	k.announce(c.announced())
	return err
}

const loopback = "lo"

func (k *Keeper) announce(next []mesh.Workload) {
	if old, known := k.Announced(); !known || !slices.EqualFunc(old, next, equal) {
		k.announced.Store(&next)
		k.cfg.Changed()
	}
}

func equal(a, b mesh.Workload) bool {
	return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports)
}

// sight asks the system; shared says by which interface an address without one of ours is reached.
func (k *Keeper) sight(c *core) (s sight, shared map[netip.Addr]string, err error) {
	s = sight{links: map[string]bool{}, why: map[string]string{}, reasons: map[netip.Addr]string{}}
	shared = map[netip.Addr]string{}
	links, err := k.cfg.Host.Look(InterfacePrefix(k.cfg.Interface))
	if err != nil {
		return s, nil, err
	}
	for name, l := range links {
		s.links[name], s.why[name] = l.Up, l.Why
	}
	for _, e := range c.items {
		if e.Interface == "" {
			a := e.Addrs[0]
			shared[a], s.reasons[a] = k.cfg.Host.Reach(a)
		}
	}
	return s, shared, nil
}

func (k *Keeper) save(c *core) error {
	b, err := c.save()
	if err == nil {
		err = k.cfg.Store.Write(stateFile, b)
	}
	if err != nil {
		return fmt.Errorf("store the list of workloads: %w", err)
	}
	return nil
}

// ask runs f on the owner's goroutine.
func ask[R any](ctx context.Context, k *Keeper, f func(*core) (R, error)) (R, error) {
	type answer struct {
		r   R
		err error
	}
	done := make(chan answer, 1)
	var none R
	select {
	case k.asks <- func(c *core) { r, err := f(c); done <- answer{r, err} }:
	case <-k.ended:
		return none, k.why
	case <-ctx.Done():
		return none, ctx.Err()
	}
	a := <-done
	return a.r, a.err
}

// Plan reserves a name and addresses for somebody who is about to attach a namespace.
func (k *Keeper) Plan(ctx context.Context, r Request) (*Item, error) {
	return ask(ctx, k, func(c *core) (*Item, error) { return k.plan(c, r) })
}

func (k *Keeper) plan(c *core, r Request) (*Item, error) {
	i, err := c.plan(r, k.cfg.Node(), k.cfg.Now())
	if err != nil {
		return nil, err
	}
	all := []mesh.Workload{i.workload()}
	for _, e := range c.items {
		if e.Name != i.Name {
			all = append(all, e.workload())
		}
	}
	if err := k.cfg.Fits(all); err != nil {
		c.cancel(i.Name)
		return nil, &fault{ErrRefused, err.Error()}
	}
	if i.Interface != "" { // what an attempt that was killed left behind
		if err := k.cfg.Host.Delete(i.Interface); err != nil {
			c.cancel(i.Name)
			return nil, err
		}
	}
	return i, nil
}

// Commit publishes a workload whose namespace is attached as planned. On an error nothing of it is kept.
func (k *Keeper) Commit(ctx context.Context, name mesh.Name) (*Status, error) {
	return ask(ctx, k, func(c *core) (*Status, error) { return k.commit(c, name) })
}

func (k *Keeper) commit(c *core, name mesh.Name) (*Status, error) {
	before := c.items[name]
	e, err := c.commit(name, k.cfg.Now())
	if err != nil {
		return nil, err
	}
	undo := func(err error) (*Status, error) {
		delete(c.items, name)
		k.drop(e.Interface)
		if before != nil {
			c.items[name] = before
		}
		return nil, errors.Join(err, k.save(c), k.look(c))
	}
	if err := k.save(c); err != nil {
		return undo(err)
	}
	// Once to bring our end up, and once to see that this brought both up.
	if err := errors.Join(k.look(c), k.look(c)); err != nil {
		return undo(err)
	}
	if e.health == Gone || e.health == Refused {
		return undo(refusef("workload %s: %s", name, e.reason))
	}
	return &Status{Item: e.Item, Health: e.health, Reason: e.reason, Since: e.since}, nil
}

// Cancel gives up a plan.
func (k *Keeper) Cancel(ctx context.Context, name mesh.Name) error {
	_, err := ask(ctx, k, func(c *core) (struct{}, error) {
		if i := c.cancel(name); i != nil {
			k.drop(i.Interface)
		}
		return struct{}{}, nil
	})
	return err
}

// Add names an address.
func (k *Keeper) Add(ctx context.Context, r Request) (*Status, error) {
	return ask(ctx, k, func(c *core) (*Status, error) {
		i, err := k.plan(c, r)
		if err != nil {
			return nil, err
		}
		if _, why := k.cfg.Host.Reach(r.Address); why != "" {
			c.cancel(i.Name)
			return nil, refusef("%v cannot be reached from this node: %s", r.Address, why)
		}
		return k.commit(c, i.Name)
	})
}

// Remove withdraws a workload and removes its interface, the end in the namespace with it.
func (k *Keeper) Remove(ctx context.Context, name mesh.Name) error {
	_, err := ask(ctx, k, func(c *core) (struct{}, error) {
		if c.items[name] == nil {
			return struct{}{}, &fault{ErrUnknown, fmt.Sprintf("this node has no workload %s: gridwire workload list", name)}
		}
		return struct{}{}, k.remove(c, name)
	})
	return err
}

// RemoveOwned removes what a container has, if anything.
func (k *Keeper) RemoveOwned(ctx context.Context, o Owner) error {
	_, err := ask(ctx, k, func(c *core) (struct{}, error) {
		if e := c.byOwner(o); e != nil {
			return struct{}{}, k.remove(c, e.Name)
		}
		return struct{}{}, nil
	})
	return err
}

// Retain removes what containers of a network have that are not in keep.
func (k *Keeper) Retain(ctx context.Context, network string, keep []Owner) error {
	_, err := ask(ctx, k, func(c *core) (struct{}, error) {
		var errs []error
		for _, e := range c.sorted() {
			if e.Owner != nil && e.Owner.Network == network && !slices.Contains(keep, *e.Owner) {
				errs = append(errs, k.remove(c, e.Name))
			}
		}
		return struct{}{}, errors.Join(errs...)
	})
	return err
}

func (k *Keeper) remove(c *core, name mesh.Name) error {
	before := c.items[name]
	memory := slices.Clone(c.memory)
	i := c.remove(name)
	if err := k.save(c); err != nil {
		c.items[name], c.memory = before, memory
		return err
	}
	k.drop(i.Interface)
	return k.look(c)
}

// List returns every workload, sorted by name, as it is now.
func (k *Keeper) List(ctx context.Context) ([]Status, error) {
	return ask(ctx, k, func(c *core) ([]Status, error) {
		if len(c.items) == 0 {
			return nil, nil
		}
		links, err := k.cfg.Host.Look(InterfacePrefix(k.cfg.Interface))
		if err != nil {
			return nil, err
		}
		var out []Status
		for _, e := range c.sorted() {
			out = append(out, Status{Item: e.Item, Health: e.health, Reason: e.reason, Since: e.since, Counters: links[e.Interface].Counters})
		}
		return out, nil
	})
}

// Purge removes every interface of the workloads and the host's side of them: the node has left its network. Call it when Run has ended.
func (k *Keeper) Purge() error {
	<-k.ended
	links, err := k.cfg.Host.Look(InterfacePrefix(k.cfg.Interface))
	if err != nil {
		return err
	}
	errs := []error{}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		errs = append(errs, k.cfg.Host.Delete(name))
	}
	return errors.Join(append(errs, k.cfg.Host.Apply(Wiring{}))...)
}

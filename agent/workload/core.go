package workload

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const (
	planLife  = 30 * time.Second
	maxMemory = 1024 // names that are gone and whose addresses are kept for them
)

// core is the list. It has no file, no clock and no system.
type core struct {
	iface   string // the overlay's interface, which names the workloads' after itself
	items   map[mesh.Name]*entry
	pending map[mesh.Name]*plan
	memory  []memory // oldest first
}

// entry is a workload, and whether it is there.
type entry struct {
	Item
	health Health
	reason string
	since  time.Time
}

// plan is a workload that somebody is attaching.
type plan struct {
	Item
	until time.Time
}

// memory keeps addresses for a name that may come back: who has looked it up, and every cache, finds it again.
type memory struct {
	Name  mesh.Name    `json:"name"`
	Addrs []netip.Addr `json:"addresses"`
}

// stored is the state file.
type stored struct {
	Version int      `json:"version"`
	Items   []Item   `json:"workloads"`
	Memory  []memory `json:"remembered,omitempty"`
}

func newCore(iface string) *core {
	return &core{iface: iface, items: map[mesh.Name]*entry{}, pending: map[mesh.Name]*plan{}}
}

func (c *core) load(b []byte, now time.Time) error {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("the list of workloads: %w", err)
	}
	if s.Version != 1 {
		return fmt.Errorf("the list of workloads is of version %d, this program knows 1: update it", s.Version)
	}
	for _, i := range s.Items {
		if err := i.workload().Check(); err != nil {
			return fmt.Errorf("the list of workloads: %w", err)
		}
		c.items[i.Name] = &entry{Item: i, health: Down, reason: "not looked at yet", since: now}
	}
	c.memory = s.Memory
	return nil
}

func (c *core) save() ([]byte, error) {
	s := stored{Version: 1, Items: []Item{}, Memory: c.memory}
	for _, e := range c.sorted() {
		s.Items = append(s.Items, e.Item)
	}
	b, err := json.MarshalIndent(s, "", " ")
	return append(b, '\n'), err
}

func (c *core) sorted() []*entry {
	return slices.SortedFunc(maps.Values(c.items), func(a, b *entry) int { return cmp.Compare(a.Name, b.Name) })
}

// plan reserves a name and addresses.
func (c *core) plan(r Request, n Node, now time.Time) (*Item, error) {
	name, err := c.free(r, now)
	if err != nil {
		return nil, err
	}
	i := &Item{Name: name, Ports: r.Ports, Netns: r.Netns, Owner: r.Owner}
	if r.Address.IsValid() {
		if err := n.authorises(r.Address); err != nil {
			return nil, err
		}
		if holder := c.holder(r.Address, now); holder != "" && holder != name {
			return nil, refusef("%v is workload %s's already", r.Address, holder)
		}
		i.Addrs = []netip.Addr{r.Address}
	} else {
		if i.Addrs, err = c.allocate(name, n, now); err != nil {
			return nil, err
		}
		i.Interface = c.interfaceName(i.Addrs[0])
	}
	if err := i.workload().Check(); err != nil {
		return nil, &fault{ErrInvalid, err.Error()}
	}
	c.pending[name] = &plan{Item: *i, until: now.Add(planLife)}
	return i, nil
}

// free returns the name to use, or why there is none.
func (c *core) free(r Request, now time.Time) (mesh.Name, error) {
	if r.Owner != nil {
		if e := c.byOwner(*r.Owner); e != nil && e.health != Gone {
			return "", refusef("interface %s of container %s is attached already, as workload %s", r.Owner.Interface, r.Owner.Container, e.Name)
		}
	}
	name := r.Name
	err := c.taken(name, now)
	if err != nil && r.Rename && r.Owner != nil {
		name = withSuffix(name, r.Owner)
		err = c.taken(name, now)
	}
	if err != nil {
		return "", err
	}
	count := len(c.items)
	for p, pl := range c.pending {
		if c.items[p] == nil && now.Before(pl.until) {
			count++
		}
	}
	if c.items[name] == nil && count >= mesh.MaxWorkloads {
		return "", refusef("this node has %d workloads, which is the limit: remove one first (gridwire workload remove NAME)", count)
	}
	return name, nil
}

func (c *core) taken(name mesh.Name, now time.Time) error {
	if p := c.pending[name]; p != nil && now.Before(p.until) {
		return refusef("a workload %s is being attached right now: try again in a moment", name)
	}
	if e := c.items[name]; e != nil && e.health != Gone {
		what := "address " + e.Addrs[0].String()
		if e.Interface != "" {
			what = "namespace " + e.Netns
		}
		return refusef("this node has a workload %s already (%s): gridwire workload remove %[1]s first, or choose another name", name, what)
	}
	return nil
}

// withSuffix makes a name that is taken unique: web becomes web-3f2a.
func withSuffix(n mesh.Name, o *Owner) mesh.Name {
	sum := sha256.Sum256([]byte(o.Network + "\x00" + o.Container + "\x00" + o.Interface))
	suffix := "-" + hex.EncodeToString(sum[:2])
	return mesh.Name(strings.TrimRight(string(n)[:min(len(n), 63-len(suffix))], "-") + suffix)
}

func (n Node) authorises(a netip.Addr) error {
	if mesh.MayAddress(n.Block, n.Routes, a) {
		return nil
	}
	own := []string{n.Block.String()}
	for _, p := range n.Routes {
		own = append(own, p.String())
	}
	return refusef("%v is not this node's to name: its certificate authorises %s (without the node's own address); "+
		"more by an invitation with --route PREFIX", a, strings.Join(own, ", "))
}

// allocate gives an IPv6 address out of the node's block, from ::2 upwards, and an IPv4 one where the node has a prefix for it. A name
// that had addresses gets them again.
func (c *core) allocate(name mesh.Name, n Node, now time.Time) ([]netip.Addr, error) {
	had := c.had(name)
	a6, ok := c.pick(name, n.Block, had, now)
	if !ok {
		return nil, refusef("no address is free in %v", n.Block)
	}
	out := []netip.Addr{a6}
	for _, p := range n.IPv4 {
		if a4, ok := c.pick(name, p, had, now); ok {
			return append(out, a4), nil
		}
	}
	return out, nil
}

func (c *core) had(name mesh.Name) []netip.Addr {
	if e := c.items[name]; e != nil {
		return e.Addrs
	}
	for _, m := range c.memory {
		if m.Name == name {
			return m.Addrs
		}
	}
	return nil
}

// maxPick bounds the search in a large prefix: more than this many addresses are never in use or remembered.
const maxPick = 4 * (mesh.MaxWorkloads + maxMemory)

func (c *core) pick(name mesh.Name, p netip.Prefix, had []netip.Addr, now time.Time) (netip.Addr, bool) {
	for _, a := range had {
		if holder := c.holder(a, now); p.Contains(a) && (holder == "" || holder == name) {
			return a, true
		}
	}
	remembered := map[netip.Addr]bool{}
	for _, m := range c.memory {
		for _, a := range m.Addrs {
			remembered[a] = true
		}
	}
	first := p.Masked().Addr()
	if p.Addr().Is6() {
		first = first.Next().Next() // ::0 is any router (RFC 4291, 2.6.1), ::1 the node
	} else if p.Bits() < 31 {
		first = first.Next() // the network's own address; the broadcast address is looked at below
	}
	for _, again := range []bool{false, true} { // at last, also what is kept for a name that may never come back
		a := first
		for range maxPick {
			if !p.Contains(a) || a.Is4() && p.Bits() < 31 && !p.Contains(a.Next()) {
				break
			}
			if c.holder(a, now) == "" && (again || !remembered[a]) {
				return a, true
			}
			a = a.Next()
		}
	}
	return netip.Addr{}, false
}

// holder returns the workload that has an address, or is being attached with it.
func (c *core) holder(a netip.Addr, now time.Time) mesh.Name {
	for _, e := range c.items {
		if slices.Contains(e.Addrs, a) {
			return e.Name
		}
	}
	for _, p := range c.pending {
		if now.Before(p.until) && slices.Contains(p.Addrs, a) {
			return p.Name
		}
	}
	return ""
}

// interfaceName is short enough for Linux (15 characters), says which overlay it is of, and is as unique as the address: gw0-2.
func (c *core) interfaceName(a netip.Addr) string {
	b := a.As16()
	return InterfacePrefix(c.iface) + fmt.Sprintf("%x", uint16(b[14])<<8|uint16(b[15]))
}

// InterfacePrefix is how the names of workloads' interfaces begin on a node whose overlay interface is iface.
func InterfacePrefix(iface string) string {
	const room = 15 - len("-ffff")
	if len(iface) > room {
		h := fnv.New32a()
		_, _ = h.Write([]byte(iface)) // never fails
		iface = iface[:room-5] + fmt.Sprintf("%05x", h.Sum32()&0xfffff)
	}
	return iface + "-"
}

// commit turns a plan into a workload.
func (c *core) commit(name mesh.Name, now time.Time) (*entry, error) {
	p := c.pending[name]
	if p == nil || !now.Before(p.until) {
		return nil, refusef("no workload %s is being attached, or it took longer than %v", name, planLife)
	}
	delete(c.pending, name)
	c.forget(name)
	e := &entry{Item: p.Item, health: Down, reason: "not looked at yet", since: now}
	c.items[name] = e
	return e, nil
}

// cancel drops a plan; it returns what was planned, or nil.
func (c *core) cancel(name mesh.Name) *Item {
	p := c.pending[name]
	if p == nil {
		return nil
	}
	delete(c.pending, name)
	return &p.Item
}

// overdue drops the plans that nobody committed in time and returns them.
func (c *core) overdue(now time.Time) []Item {
	var out []Item
	for name, p := range c.pending {
		if !now.Before(p.until) {
			delete(c.pending, name)
			out = append(out, p.Item)
		}
	}
	return out
}

// remove drops a workload and keeps its addresses for the name, unless somebody chose them.
func (c *core) remove(name mesh.Name) *Item {
	e := c.items[name]
	if e == nil {
		return nil
	}
	delete(c.items, name)
	if e.Interface != "" {
		c.memory = append(c.memory, memory{name, e.Addrs})
		c.memory = c.memory[max(0, len(c.memory)-maxMemory):]
	}
	return &e.Item
}

func (c *core) forget(name mesh.Name) {
	c.memory = slices.DeleteFunc(c.memory, func(m memory) bool { return m.Name == name })
}

// byOwner returns the workload of a container's interface.
func (c *core) byOwner(o Owner) *entry {
	for _, e := range c.items {
		if e.Owner != nil && *e.Owner == o {
			return e
		}
	}
	return nil
}

// sight is what the system says: the interfaces of ours that there are, and for each address that has none why it cannot be reached ("":
// it can).
type sight struct {
	links   map[string]bool   // by name; whether both ends are up
	why     map[string]string // why not, where it is known better than that
	reasons map[netip.Addr]string
}

// observe updates every workload's health and returns which containers' are gone for good: a container's namespace never comes back.
func (c *core) observe(s sight, n Node, now time.Time) (gone []mesh.Name) {
	for _, e := range c.sorted() {
		h, reason := e.judge(s, n)
		if h != e.health {
			e.since = now
		}
		e.health, e.reason = h, reason
		if h == Gone && e.Owner != nil {
			gone = append(gone, e.Name)
		}
	}
	return gone
}

func (e *entry) judge(s sight, n Node) (Health, string) {
	for _, a := range e.Addrs {
		if err := n.authorises(a); err != nil {
			return Refused, err.Error()
		}
	}
	if e.Interface == "" {
		if why := s.reasons[e.Addrs[0]]; why != "" {
			return Down, why
		}
		return Up, ""
	}
	up, there := s.links[e.Interface]
	switch {
	case !there:
		return Gone, "its namespace is gone; attach it again: gridwire workload add " + string(e.Name) + " --netns PATH"
	case !up:
		return Down, cmp.Or(s.why[e.Interface], "the interface in its namespace is down")
	}
	return Up, ""
}

// announced are the workloads that this node's record names.
func (c *core) announced() []mesh.Workload {
	var out []mesh.Workload
	for _, e := range c.sorted() {
		if e.health == Up {
			out = append(out, e.workload())
		}
	}
	return out
}

func refusef(format string, args ...any) error {
	return &fault{ErrRefused, fmt.Sprintf(format, args...)}
}

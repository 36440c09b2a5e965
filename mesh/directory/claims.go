package directory

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/gridwire/gridwire/mesh"
)

// claims says who holds each key of one kind (a name, an address) when several valid certificates claim it: the first in the order of
// precede. Lists are sorted, so that the answer does not depend on who came first; nearly all have one element.
type claims[K comparable] map[K][]*cert

// precede orders certificates that claim the same thing: the lower (NotBefore, serial, key) wins. NotBefore is that of
// the first certificate of the member, not of the newest renewal: else two members would take a name from each other with each renewal.
func precede(a, b *cert) int {
	return cmp.Or(
		a.admitted.Compare(b.admitted),
		cmp.Compare(len(a.serialNumber), len(b.serialNumber)), // big-endian without leading zeros: the longer number is the higher
		bytes.Compare(a.serialNumber, b.serialNumber),
		a.id.Compare(b.id),
	)
}

func (cl claims[K]) holder(k K) *cert {
	if list := cl[k]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// add returns the holder before and after.
func (cl claims[K]) add(k K, c *cert) (before, after *cert) {
	before = cl.holder(k)
	list := cl[k]
	i, found := slices.BinarySearchFunc(list, c, precede)
	if !found {
		cl[k] = slices.Insert(list, i, c)
	}
	return before, cl.holder(k)
}

// remove returns the holder before and after.
func (cl claims[K]) remove(k K, c *cert) (before, after *cert) {
	before = cl.holder(k)
	list := cl[k]
	if i, found := slices.BinarySearchFunc(list, c, precede); found {
		list = slices.Delete(list, i, i+1)
		if len(list) == 0 {
			delete(cl, k)
		} else {
			cl[k] = list
		}
	}
	return before, cl.holder(k)
}

// touched collects whose place in the View may have changed.
type touched map[mesh.NodeID]struct{}

func (t touched) add(cs ...*cert) {
	for _, c := range cs {
		if c != nil {
			t[c.id] = struct{}{}
		}
	}
}

// names gives every member a name nobody else has: its certificate's, else NAME-xxxx (four characters of its ID), else NAME with the
// whole ID. Certified names outrank the short made-up ones, and these do not reach back, so that no change sets off a second one.
type names struct {
	certified claims[mesh.Name]
	short     claims[mesh.Name] // of those who hold no certified name
}

func newNames() names {
	return names{certified: make(claims[mesh.Name]), short: make(claims[mesh.Name])}
}

func (n *names) add(c *cert, t touched) {
	before, after := n.certified.add(c.name, c)
	t.add(c)
	if before == nil {
		t.add(n.short.holder(c.name)) // whose made-up name c's certificate now takes
	}
	switch {
	case after != c:
		n.addShort(c, t)
	case before != nil && before != c:
		n.addShort(before, t)
	}
}

func (n *names) remove(c *cert, t touched) {
	before, after := n.certified.remove(c.name, c)
	t.add(c)
	if before != c {
		n.removeShort(c, t)
		return
	}
	if after == nil {
		t.add(n.short.holder(c.name))
		return
	}
	n.removeShort(after, t)
}

func (n *names) addShort(c *cert, t touched) {
	before, after := n.short.add(shortName(c), c)
	t.add(c, before, after)
}

func (n *names) removeShort(c *cert, t touched) {
	before, after := n.short.remove(shortName(c), c)
	t.add(c, before, after)
}

// of returns the name of a member whose certificate was added.
func (n *names) of(c *cert) mesh.Name {
	if n.certified.holder(c.name) == c {
		return c.name
	}
	s := shortName(c)
	if n.certified.holder(s) == nil && n.short.holder(s) == c {
		return s
	}
	return suffixed(c.name, c.id.String())
}

func shortName(c *cert) mesh.Name { return suffixed(c.name, c.id.String()[:4]) }

// suffixed returns NAME-SUFFIX, with NAME cut so that the whole is a DNS label.
func suffixed(n mesh.Name, suffix string) mesh.Name {
	base := string(n)[:min(len(n), 63-1-len(suffix))]
	return mesh.Name(strings.TrimRight(base, "-") + "-" + suffix)
}

// posesAs reports whether n is the last-resort name of another member, which must stay free for that one.
func posesAs(n mesh.Name, id mesh.NodeID) bool {
	i := strings.LastIndexByte(string(n), '-')
	other, err := mesh.ParseNodeID(string(n[i+1:]))
	return err == nil && other != id
}

// resources is everything that only one member at a time can have.
type resources struct {
	names     names
	wireGuard claims[mesh.WGKey]   // a WireGuard device has one peer per key
	block     claims[netip.Prefix] // hashes of two IDs may collide
	ipv4      claims[netip.Addr]   // an issuer that lost its memory may assign one twice
}

func newResources() resources {
	return resources{
		names: newNames(), wireGuard: make(claims[mesh.WGKey]), block: make(claims[netip.Prefix]), ipv4: make(claims[netip.Addr]),
	}
}

func (r *resources) add(c *cert, t touched) {
	r.names.add(c, t)
	t.add(pair(r.wireGuard.add(c.wireGuard, c))...)
	t.add(pair(r.block.add(c.block, c))...)
	for _, a := range c.addrs {
		if a.Is4() {
			t.add(pair(r.ipv4.add(a, c))...)
		}
	}
}

func (r *resources) remove(c *cert, t touched) {
	r.names.remove(c, t)
	t.add(pair(r.wireGuard.remove(c.wireGuard, c))...)
	t.add(pair(r.block.remove(c.block, c))...)
	for _, a := range c.addrs {
		if a.Is4() {
			t.add(pair(r.ipv4.remove(a, c))...)
		}
	}
}

// addrs returns those overlay addresses of c that are its own.
func (r *resources) addrs(c *cert) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(c.addrs), func(a netip.Addr) bool { return a.Is4() && r.ipv4.holder(a) != c })
}

func pair(a, b *cert) []*cert { return []*cert{a, b} }

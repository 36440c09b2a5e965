package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
)

// The leak guard, for interface gw0 and the overlay fd00:1:2::/48, as `nft list ruleset` prints it:
//
//	table ip6 gridwire_gw0 {
//		set inside { type ifname; elements = { "lo", "gw0" } }
//		chain arrive {
//			type filter hook prerouting priority raw; policy accept;
//			iif "gw0" accept
//			ip6 daddr fd00:1:2::/48 iifname != @inside counter drop
//			ip6 saddr fd00:1:2::/48 iifname != @inside counter drop
//		}
//		chain leave {
//			type filter hook postrouting priority 300; policy accept;
//			oif "gw0" accept
//			ip6 daddr fd00:1:2::/48 oifname != @inside counter drop
//			ip6 saddr fd00:1:2::/48 oifname != @inside counter drop
//		}
//	}
//
// the same for IPv4 in a table ip gridwire_gw0, and the chains that say what is forwarded (passage.go).
//
// Every packet of this machine passes here, the tunnel's own up to four times on its way. So each family has a table of its own, where
// nothing is asked about the other's packets (of what small packets cost the tunnel's process, the guard is 1.0 %, and was 1.4 % in one table
// of both), and what is cheap comes first: the tunnel's interface by its index, then the addresses, and the set of names only for packets
// that have an overlay address.
//
// Linux accepts packets for any of its addresses on any interface (the weak host model, RFC 1122 3.3.4.2), so without "arrive" a
// neighbour on the LAN reaches overlay listeners. wg-quick guards its address in the same hook. "leave" stops our own packets that would
// follow the default route while the tunnel's route is away; it comes after source NAT (priority 100), so that a gateway's masqueraded
// packets pass. Packets of this machine to itself use lo in both hooks.

// guardTables are the tables of both families.
func guardTables(iface string) (out []*nftables.Table) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		out = append(out, &nftables.Table{Family: family, Name: nft.Prefix + iface})
	}
	return out
}

// guard is what the rules are made of.
type guard struct {
	iface   string
	trusted []string       // further interfaces that may carry overlay addresses
	overlay []netip.Prefix // the overlay's prefixes
	own     []netip.Addr   // this node's addresses in them
	behind  []netip.Prefix // networks that this node gives the overlay access to
	keep    bool           // without changing the source addresses
}

// guard returns what the router's state says. The caller holds mu, or is Up.
func (r *Router) guard() guard {
	return guard{
		iface: r.cfg.Interface, trusted: r.cfg.Trusted, overlay: r.activePrefixes(), own: r.activeAddrs(), behind: r.behind, keep: r.keep,
	}
}

// of returns the guard with one family's addresses.
func (g guard) of(family nftables.TableFamily) guard {
	other := func(a netip.Addr) bool { return a.Is4() != (family == nftables.TableFamilyIPv4) }
	g.overlay = slices.DeleteFunc(slices.Clone(g.overlay), func(p netip.Prefix) bool { return other(p.Addr()) })
	g.own = slices.DeleteFunc(slices.Clone(g.own), other)
	g.behind = slices.DeleteFunc(slices.Clone(g.behind), func(p netip.Prefix) bool { return other(p.Addr()) })
	return g
}

// ruleset is the table of a family in the making; its guard has that family's addresses only.
type ruleset struct {
	*nftables.Conn
	guard
	table  *nftables.Table
	inside *nftables.Set
	index  int // the tunnel's interface
}

// set puts the guard in place of any earlier one of this interface, in one transaction.
func (g guard) set() error {
	link, err := net.InterfaceByName(g.iface)
	if err != nil {
		return guardError(g.iface, err)
	}
	c, err := nftables.New()
	if err != nil {
		return guardError(g.iface, err)
	}
	for _, table := range guardTables(g.iface) {
		nft.Replace(c, table)
		r := &ruleset{Conn: c, guard: g.of(table.Family), table: table, index: link.Index}
		if err := r.addInside(); err != nil {
			return guardError(g.iface, err)
		}
		r.addLeakGuard()
		r.addPassage()
	}
	if err := c.Flush(); err != nil {
		return guardError(g.iface, err)
	}
	return nil
}

// addInside adds the set of interfaces that may carry overlay addresses.
func (r *ruleset) addInside() error {
	r.inside = &nftables.Set{Table: r.table, Name: "inside", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var names []nftables.SetElement
	seen := map[string]bool{}
	for _, name := range append([]string{"lo", r.iface}, r.trusted...) {
		if !seen[name] {
			seen[name] = true
			names = append(names, nftables.SetElement{Key: nft.IfName(name)})
		}
	}
	return r.AddSet(r.inside, names)
}

func (r *ruleset) addLeakGuard() {
	arrive := r.AddChain(&nftables.Chain{
		Table: r.table, Name: "arrive", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	leave := r.AddChain(&nftables.Chain{
		Table: r.table, Name: "leave", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	})
	r.add(arrive, meta(expr.MetaKeyIIF, r.index), verdict(expr.VerdictAccept))
	r.add(leave, meta(expr.MetaKeyOIF, r.index), verdict(expr.VerdictAccept))
	if r.keep {
		r.addExceptions(arrive, leave)
	}
	for _, p := range r.overlay {
		for _, field := range []addrField{destination, source} {
			r.add(arrive, match(field, p), r.outside(expr.MetaKeyIIFNAME), verdict(expr.VerdictDrop))
			r.add(leave, match(field, p), r.outside(expr.MetaKeyOIFNAME), verdict(expr.VerdictDrop))
		}
	}
}

// add appends a rule of several parts.
func (r *ruleset) add(chain *nftables.Chain, parts ...[]expr.Any) {
	r.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

// removeGuard removes the guard; it is no error if there is none.
func removeGuard(iface string) error {
	for _, table := range guardTables(iface) {
		if err := nft.Remove(table); err != nil {
			return guardError(iface, err)
		}
	}
	return nil
}

func guardError(iface string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("setting the leak guard of interface %s: %s: %w", iface, needNetAdmin, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("setting the leak guard of interface %s: this kernel lacks nftables (nf_tables), without which a neighbour on "+
			"the LAN could reach overlay listeners: load the modules: %w", iface, err)
	}
	return fmt.Errorf("setting the leak guard of interface %s: %w", iface, err)
}

type addrField bool

const (
	destination addrField = false
	source      addrField = true
)

// meta is "KEY VALUE" for an interface's index.
func meta(key expr.MetaKey, index int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(index))},
	}
}

// verdict is accept, or "counter drop".
func verdict(kind expr.VerdictKind) []expr.Any {
	if kind == expr.VerdictDrop {
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: kind}}
	}
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

// outside is "KEY != @inside".
func (r *ruleset) outside(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: r.inside.Name, SetID: r.inside.ID, Invert: true},
	}
}

// match is "ip6 FIELD PREFIX", or "ip FIELD PREFIX" in the other family's table.
func match(field addrField, p netip.Prefix) []expr.Any {
	// Offsets of the addresses in the headers: RFC 791, 3.1 and RFC 8200, 3.
	offset := uint32(24)
	if field == source {
		offset = 8
	}
	if p.Addr().Is4() {
		offset = 16
		if field == source {
			offset = 12
		}
	}
	// As nft does it: of a prefix that ends at a byte only its bytes are looked at; any other needs a mask.
	size, mask := uint32(p.Bits()/8), []byte(nil)
	if p.Bits()%8 != 0 {
		size, mask = uint32(p.Addr().BitLen()/8), net.CIDRMask(p.Bits(), p.Addr().BitLen())
	}
	out := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if mask != nil {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()[:size]})
}

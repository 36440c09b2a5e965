package host

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
	"github.com/gridwire/gridwire/agent/workload"
)

// What workloads may send, as `nft list ruleset` prints it, for the overlay's interface gw0, a workload on gw0-2 and an address behind br0:
//
//	table inet gridwire_gw0_workloads {
//		set attached { type ifname; elements = { "gw0-2" } }
//		set shared   { type ifname; elements = { "br0" } }
//		set sources6 { type ifname . ipv6_addr; elements = { "gw0-2" . fd00:1:2:3::2, "br0" . fd00:1:2:3::64 } }
//		set sources4 { type ifname . ipv4_addr; elements = { "gw0-2" . 192.0.2.1 } }
//		chain arrive {
//			type filter hook prerouting priority -310; policy accept;
//			iifname @attached ip6 saddr fe80::/10 accept                                (neighbour discovery with its host)
//			iifname @attached ip6 saddr ::/128 accept                                   (the same, before it has an address)
//			iifname @attached meta nfproto ipv6 iifname . ip6 saddr != @sources6 counter drop
//			iifname @attached meta nfproto ipv4 iifname . ip saddr != @sources4 counter drop
//			iifname @shared ip6 saddr fd00:1:2::/48 iifname . ip6 saddr != @sources6 counter drop
//			iifname @shared ip6 daddr fd00:1:2::/48 iifname . ip6 saddr != @sources6 counter drop
//		}
//		chain pass {
//			type filter hook forward priority 0; policy accept;
//			iifname @attached oifname { "gw0" } accept                                  (and the other way round)
//			iifname @attached oifname @attached accept
//			iifname @attached ip daddr 192.0.2.0/24 accept                              (own routed prefixes, and the other way round)
//			iifname @attached counter drop
//			oifname @attached counter drop
//			iifname { "gw0" } oifname @shared ip6 daddr fd00:1:2:3::64 accept           (and own routed prefixes, and the other way round)
//			iifname { "gw0" } oifname @shared counter drop                              (the same)
//		}
//	}
//
// Other members take a workload's source address for its identity, so it may not send from another one's: that is what "arrive" is for, before
// the leak guard, which lets workloads' interfaces through. "pass" keeps this machine from being a router to its LAN and the internet for
// whoever is root in a namespace, and its LAN from reaching workloads by their routed IPv4 addresses around the mesh.
func filterTable(iface string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.Prefix + iface + "_workloads"}
}

// filter collects one transaction.
type filter struct {
	c     *nftables.Conn
	table *nftables.Table
}

// setFilter puts the filter in place of any earlier one, in one transaction.
func setFilter(iface string, overlay netip.Prefix, w workload.Wiring) error {
	c, err := nftables.New()
	if err != nil {
		return filterError(iface, err)
	}
	f := filter{c: c, table: filterTable(iface)}
	nft.Replace(c, f.table)
	attached, err := f.names("attached", slices.Collect(maps.Keys(w.Attached)))
	if err != nil {
		return filterError(iface, err)
	}
	shared, err := f.names("shared", slices.Collect(maps.Keys(w.Shared)))
	if err != nil {
		return filterError(iface, err)
	}
	tunnel, err := f.names("tunnel", []string{iface})
	if err != nil {
		return filterError(iface, err)
	}
	sources6, err := f.sources("sources6", nftables.TypeIP6Addr, netip.Addr.Is6, w)
	if err != nil {
		return filterError(iface, err)
	}
	sources4, err := f.sources("sources4", nftables.TypeIPAddr, netip.Addr.Is4, w)
	if err != nil {
		return filterError(iface, err)
	}
	f.arrive(attached, shared, sources6, sources4, overlay)
	f.pass(attached, tunnel, w.Own)
	f.passShared(shared, tunnel, w)
	if err := c.Flush(); err != nil {
		return filterError(iface, err)
	}
	return nil
}

func hasFilter(iface string) (bool, error) {
	there, err := nft.Has(filterTable(iface))
	if err != nil {
		return false, filterError(iface, err)
	}
	return there, nil
}

func removeFilter(iface string) error {
	if err := nft.Remove(filterTable(iface)); err != nil {
		return filterError(iface, err)
	}
	return nil
}

func filterError(iface string, err error) error {
	return fmt.Errorf("setting what workloads may send (nftables table %s): %w", filterTable(iface).Name, err)
}

func (f filter) names(name string, ifaces []string) (*nftables.Set, error) {
	s := &nftables.Set{Table: f.table, Name: name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var elements []nftables.SetElement
	for _, i := range ifaces {
		elements = append(elements, nftables.SetElement{Key: nft.IfName(i)})
	}
	return s, f.c.AddSet(s, elements)
}

func (f filter) sources(name string, addr nftables.SetDatatype, is func(netip.Addr) bool, w workload.Wiring) (*nftables.Set, error) {
	s := &nftables.Set{Table: f.table, Name: name, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, addr), Concatenation: true}
	var elements []nftables.SetElement
	for _, m := range []map[string][]netip.Addr{w.Attached, w.Shared} {
		for iface, addrs := range m {
			for _, a := range addrs {
				if is(a) {
					elements = append(elements, nftables.SetElement{Key: append(nft.IfName(iface), a.AsSlice()...)})
				}
			}
		}
	}
	return s, f.c.AddSet(s, elements)
}

func (f filter) arrive(attached, shared, sources6, sources4 *nftables.Set, overlay netip.Prefix) {
	chain := f.c.AddChain(&nftables.Chain{
		Table: f.table, Name: "arrive", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-310), // the leak guard is at -300
	})
	add := func(parts ...[]expr.Any) { f.rule(chain, parts...) }
	linkLocal, none := netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::/128")
	add(in(attached), address(source, linkLocal), verdict(expr.VerdictAccept))
	add(in(attached), address(source, none), verdict(expr.VerdictAccept))
	add(in(attached), notFrom(sources6, unix.NFPROTO_IPV6), drop())
	add(in(attached), notFrom(sources4, unix.NFPROTO_IPV4), drop())
	add(in(shared), address(source, overlay), notFrom(sources6, unix.NFPROTO_IPV6), drop())
	add(in(shared), address(destination, overlay), notFrom(sources6, unix.NFPROTO_IPV6), drop())
}

func (f filter) pass(attached, tunnel *nftables.Set, own []netip.Prefix) {
	chain := f.c.AddChain(&nftables.Chain{
		Table: f.table, Name: "pass", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	add := func(parts ...[]expr.Any) { f.rule(chain, parts...) }
	add(in(attached), out(tunnel), verdict(expr.VerdictAccept))
	add(in(tunnel), out(attached), verdict(expr.VerdictAccept))
	add(in(attached), out(attached), verdict(expr.VerdictAccept))
	for _, p := range own {
		add(in(attached), address(destination, p), verdict(expr.VerdictAccept))
		add(out(attached), address(source, p), verdict(expr.VerdictAccept))
	}
	add(in(attached), drop())
	add(out(attached), drop())
}

// passShared keeps members to the workloads behind an interface that leads elsewhere too: the leak guard, which lets it carry the overlay, does
// not look any more.
func (f filter) passShared(shared, tunnel *nftables.Set, w workload.Wiring) {
	if len(w.Shared) == 0 {
		return
	}
	allowed := slices.Clone(w.Own)
	for _, addrs := range w.Shared {
		for _, a := range addrs {
			allowed = append(allowed, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	chain := &nftables.Chain{Table: f.table, Name: "pass"}
	for _, p := range allowed {
		f.rule(chain, in(tunnel), out(shared), address(destination, p), verdict(expr.VerdictAccept))
		f.rule(chain, in(shared), out(tunnel), address(source, p), verdict(expr.VerdictAccept))
	}
	f.rule(chain, in(tunnel), out(shared), drop())
	f.rule(chain, in(shared), out(tunnel), drop())
}

func (f filter) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	f.c.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

func in(s *nftables.Set) []expr.Any  { return member(expr.MetaKeyIIFNAME, s) }
func out(s *nftables.Set) []expr.Any { return member(expr.MetaKeyOIFNAME, s) }

func member(meta expr.MetaKey, s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Meta{Key: meta, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func drop() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

func family(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// notFrom is "meta nfproto FAMILY iifname . saddr != @s". An interface name fills register 1 (16 bytes), the address goes to the next.
func notFrom(s *nftables.Set, proto byte) []expr.Any {
	offset, size := field(source, proto)
	return append(family(proto),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: true},
	)
}

type side bool

const (
	source      side = true
	destination side = false
)

// field is where an address is in the header (RFC 791, 3.1; RFC 8200, 3).
func field(s side, proto byte) (offset, size uint32) {
	offset, size = 8, 16
	if proto == unix.NFPROTO_IPV4 {
		offset, size = 12, 4
	}
	if s == destination {
		offset += size
	}
	return offset, size
}

// address is "saddr P" or "daddr P".
func address(s side, p netip.Prefix) []expr.Any {
	proto := byte(unix.NFPROTO_IPV6)
	if p.Addr().Is4() {
		proto = unix.NFPROTO_IPV4
	}
	offset, size := field(s, proto)
	return append(family(proto),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
}

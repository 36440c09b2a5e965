package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The leak guard, for interface gw0 and the overlay fd00:1:2::/48, as `nft list ruleset` prints it:
//
//	table inet gridwire_gw0 {
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
// Every packet of this machine passes here, the tunnel's own up to four times on its way. So what is cheap comes first: the tunnel's
// interface by its index, then the addresses, and the set of names only for packets that have an overlay address. The other way round
// the guard took 3.5 % of what small packets cost.
//
// Linux accepts packets for any of its addresses on any interface (the weak host model, RFC 1122 3.3.4.2), so without "arrive" a
// neighbour on the LAN reaches overlay listeners. wg-quick guards its address in the same hook. "leave" stops our own packets that would
// follow the default route while the tunnel's route is away; it comes after source NAT (priority 100), so that a gateway's masqueraded
// packets pass. Packets of this machine to itself use lo in both hooks.

func guardTable(iface string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "gridwire_" + iface}
}

// setGuard puts the guard in place of any earlier one of this interface, in one transaction.
func setGuard(iface string, trusted []string, overlay []netip.Prefix) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return guardError(iface, err)
	}
	c, err := nftables.New()
	if err != nil {
		return guardError(iface, err)
	}
	table := guardTable(iface)
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	inside := &nftables.Set{Table: table, Name: "inside", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var names []nftables.SetElement
	seen := map[string]bool{}
	for _, name := range append([]string{"lo", iface}, trusted...) {
		if !seen[name] {
			seen[name] = true
			names = append(names, nftables.SetElement{Key: ifname(name)})
		}
	}
	if err := c.AddSet(inside, names); err != nil {
		return guardError(iface, err)
	}
	arrive := c.AddChain(&nftables.Chain{
		Table: table, Name: "arrive", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	leave := c.AddChain(&nftables.Chain{
		Table: table, Name: "leave", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: arrive, Exprs: acceptOn(expr.MetaKeyIIF, link.Index)})
	c.AddRule(&nftables.Rule{Table: table, Chain: leave, Exprs: acceptOn(expr.MetaKeyOIF, link.Index)})
	for _, p := range overlay {
		for _, field := range []addrField{destination, source} {
			c.AddRule(&nftables.Rule{Table: table, Chain: arrive, Exprs: dropOutside(inside, expr.MetaKeyIIFNAME, field, p)})
			c.AddRule(&nftables.Rule{Table: table, Chain: leave, Exprs: dropOutside(inside, expr.MetaKeyOIFNAME, field, p)})
		}
	}
	if err := c.Flush(); err != nil {
		return guardError(iface, err)
	}
	return nil
}

// removeGuard removes the guard; it is no error if there is none.
func removeGuard(iface string) error {
	c, err := nftables.New()
	if err != nil {
		return guardError(iface, err)
	}
	table := guardTable(iface)
	c.AddTable(table) // deleting a table that does not exist fails
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return guardError(iface, err)
	}
	return nil
}

func guardError(iface string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("setting the leak guard of interface %s: %s: %w", iface, needNetAdmin, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("setting the leak guard of interface %s: this kernel lacks nftables (nf_tables, nf_tables_inet), without which a neighbour on "+
			"the LAN could reach overlay listeners: load the modules: %w", iface, err)
	}
	return fmt.Errorf("setting the leak guard of interface %s: %w", iface, err)
}

type addrField bool

const (
	destination addrField = false
	source      addrField = true
)

// acceptOn is "META INDEX accept".
func acceptOn(meta expr.MetaKey, index int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: meta, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(index))},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// dropOutside is "ip6 FIELD PREFIX META != @inside counter drop".
func dropOutside(inside *nftables.Set, meta expr.MetaKey, field addrField, p netip.Prefix) []expr.Any {
	// Offsets of the addresses in the headers: RFC 791, 3.1 and RFC 8200, 3.
	family, offset := byte(unix.NFPROTO_IPV6), uint32(24)
	if field == source {
		offset = 8
	}
	if p.Addr().Is4() {
		family, offset = unix.NFPROTO_IPV4, 16
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
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if mask != nil {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out,
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()[:size]},
		&expr.Meta{Key: meta, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: inside.Name, SetID: inside.ID, Invert: true},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}

// ifname is the kernel's fixed-size form of an interface name.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

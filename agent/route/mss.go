package route

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
)

// The segment size of TCP connections that this machine forwards into the tunnel or out of it (workloads, routed networks) is lowered to what
// the routes of both ends carry, because those who make them do not see this machine's routes, and an ICMP message in between gets lost:
//
//	table inet gridwire_gw0_mss {
//		chain forward {
//			type filter hook forward priority mangle; policy accept;
//			oifname "gw0" meta l4proto tcp tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
//			iifname "gw0" meta l4proto tcp tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
//		}
//	}
//
// "rt mtu" is the smaller of the packet's route and the route back, less headers. The kernel never raises a segment size. Machines that forward
// nothing never come here.

func mssTable(iface string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.Prefix + iface + "_mss"}
}

// clampMSS puts the table in place of any earlier one of this interface, in one transaction.
func clampMSS(iface string) error {
	c, err := nftables.New()
	if err != nil {
		return mssError(iface, err)
	}
	table := mssTable(iface)
	nft.Replace(c, table)
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle,
	})
	for _, meta := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: clampOn(meta, iface)})
	}
	if err := c.Flush(); err != nil {
		return mssError(iface, err)
	}
	return nil
}

func clampOn(meta expr.MetaKey, iface string) []expr.Any {
	const flagsOffset, synRst, syn, maxseg = 13, 0x06, 0x02, 2 // RFC 9293, 3.1 and 3.2
	return []expr.Any{
		&expr.Meta{Key: meta, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: nft.IfName(iface)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synRst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: maxseg, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
}

// unclampMSS removes the table; it is no error if there is none.
func unclampMSS(iface string) error {
	if err := nft.Remove(mssTable(iface)); err != nil {
		return mssError(iface, err)
	}
	return nil
}

func mssError(iface string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("limiting the TCP segments forwarded through interface %s: %s: %w", iface, needNetAdmin, err)
	}
	return fmt.Errorf("limiting the TCP segments forwarded through interface %s (this kernel may lack nft_rt or nft_exthdr): %w", iface, err)
}

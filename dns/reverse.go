package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// family is a tree of reverse names: its suffix, and how many bits of an address a label holds.
type family struct {
	suffix    string
	step      int
	bits      int
	labelBits func(label string) (byte, bool)
}

var (
	family4 = family{"in-addr.arpa.", 8, 32, octet}
	family6 = family{"ip6.arpa.", 4, 128, nibble}
)

// reverse answers for names below in-addr.arpa and ip6.arpa that belong to an overlay prefix.
func (z *Zone) reverse(q dns.Question) (found, bool) {
	for _, f := range []*family{&family4, &family6} {
		if rel, ok := relative(q.Name, f.suffix); ok && rel != "" {
			return z.pointersAt(q, f, rel)
		}
	}
	return found{}, false
}

func (z *Zone) pointersAt(q dns.Question, f *family, rel string) (found, bool) {
	p, rest := f.parse(rel)
	i := slices.IndexFunc(z.prefixes, func(o netip.Prefix) bool { return p.Bits() >= f.round(o.Bits()) && o.Contains(p.Addr()) })
	if i < 0 {
		return found{}, false
	}
	apex := f.name(netip.PrefixFrom(p.Addr(), f.round(z.prefixes[i].Bits())))
	if rest != "" { // below an address, or a label that is no part of one
		return found{rcode: dns.RcodeNameError, apex: apex}, true
	}
	atApex := p.Bits() == f.round(z.prefixes[i].Bits())
	if atApex && (p.Bits() < f.bits || q.Qtype != dns.TypePTR) {
		return z.top(q, apex), true
	}
	first, _ := slices.BinarySearchFunc(z.pointers, p.Addr(), func(e pointer, a netip.Addr) int { return e.addr.Compare(a) })
	if !atApex && (first == len(z.pointers) || !p.Contains(z.pointers[first].addr)) {
		return found{rcode: dns.RcodeNameError, apex: apex}, true
	}
	r := found{apex: apex}
	if p.Bits() == f.bits && q.Qtype == dns.TypePTR {
		for _, e := range z.pointers[first:] {
			if e.addr != p.Addr() {
				break
			}
			r.answer = append(r.answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: z.host(e.workload, e.member)})
		}
	}
	return r.any(q), true
}

// parse reads the labels before the suffix, from the right, for as long as they are parts of an address, and returns the rest.
func (f *family) parse(rel string) (p netip.Prefix, rest string) {
	var b [16]byte
	bits := 0
	for rel != "" && bits < f.bits {
		before, label := lastLabel(rel)
		v, ok := f.labelBits(label)
		if !ok {
			break
		}
		b[bits/8] |= v << (8 - f.step - bits%8)
		bits += f.step
		rel = before
	}
	addr := netip.AddrFrom16(b)
	if f.bits == 32 {
		addr = netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.PrefixFrom(addr, bits), rel
}

// name returns the name of a prefix that ends at a label boundary.
func (f *family) name(p netip.Prefix) string {
	b := p.Masked().Addr().AsSlice()
	var s strings.Builder
	for bits := p.Bits() - f.step; bits >= 0; bits -= f.step {
		if f.step == 8 {
			s.WriteString(strconv.Itoa(int(b[bits/8])))
		} else {
			s.WriteByte("0123456789abcdef"[b[bits/8]>>(4-bits%8)&15])
		}
		s.WriteByte('.')
	}
	return s.String() + f.suffix
}

// round returns the first label boundary at or below a prefix: the apex of the reverse zone.
func (f *family) round(bits int) int { return (bits + f.step - 1) / f.step * f.step }

// octet reads a decimal number without leading zeros, as RFC 1035, 3.5 has it.
func octet(label string) (byte, bool) {
	v, err := strconv.ParseUint(label, 10, 8)
	return byte(v), err == nil && label == strconv.Itoa(int(v))
}

// nibble reads a hexadecimal digit (RFC 3596, 2.5).
func nibble(label string) (byte, bool) {
	if len(label) != 1 {
		return 0, false
	}
	v, err := strconv.ParseUint(label, 16, 8)
	return byte(v), err == nil
}

// ReverseZones returns the names of the reverse zones that a Zone with these prefixes answers for, without the final dot: more than one for a
// prefix that ends within a label, as 10.64.0.0/12 does.
func ReverseZones(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		if !p.IsValid() || p.Bits() == 0 {
			continue
		}
		f := &family6
		if p.Addr().Is4() {
			f = &family4
		}
		bits := f.round(p.Bits())
		a := p.Masked().Addr()
		for range 1 << (bits - p.Bits()) {
			zone := netip.PrefixFrom(a, bits)
			out = append(out, strings.TrimSuffix(f.name(zone), "."))
			a = after(zone)
		}
	}
	return out
}

// after returns the first address behind a prefix; of the last one it is the first of all.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	carry := uint(1) << (7 - (p.Bits()-1)%8)
	for i := (p.Bits() - 1) / 8; i >= 0 && carry > 0; i-- {
		sum := uint(b[i]) + carry
		b[i], carry = byte(sum), sum>>8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

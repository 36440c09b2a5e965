package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	optSize    = 11 // of an OPT record without options

	// maxUDP is the largest answer over UDP, and what we say that we take: it passes each IPv6 path without fragments (RFC 9715, 3.1).
	maxUDP = 1232

	// maxQuery is the largest question that is read: a name of 255 bytes and an OPT record with options such as a cookie and padding.
	maxQuery = 4096
)

// query is a question that can be read.
type query struct {
	msg     dns.Msg
	ask     dns.Question // the only one
	opt     *dns.OPT     // nil: the client does not speak EDNS
	size    int          // of the largest answer that the client takes
	forward *forwarder   // whom to ask for names outside; nil: nobody, or not for this client
}

// parse reads a packet. It returns nil and a reason, which is a response code, or -1 for what gets no answer at all.
func parse(packet []byte, tcp bool) (*query, int) {
	if len(packet) < headerSize || packet[2]&0x80 != 0 { // a response is never answered: two servers would talk for ever
		return nil, -1
	}
	if packet[2]>>3&15 != dns.OpcodeQuery {
		return nil, dns.RcodeNotImplemented
	}
	// Counts first, before anything is read or allocated: one question, no answers, at most one SOA of an incremental transfer,
	// which is refused later, at most an OPT record and a signature.
	count := func(i int) uint16 { return binary.BigEndian.Uint16(packet[i:]) }
	if count(4) != 1 || count(6) != 0 || count(8) > 1 || count(10) > 2 {
		return nil, dns.RcodeFormatError
	}
	q := &query{size: dns.MinMsgSize}
	if err := q.msg.Unpack(packet); err != nil || len(q.msg.Question) != 1 {
		return nil, dns.RcodeFormatError
	}
	q.ask = q.msg.Question[0]
	for _, rr := range q.msg.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			if q.opt != nil || opt.Hdr.Name != "." { // RFC 6891, 6.1.1
				return nil, dns.RcodeFormatError
			}
			q.opt = opt
			q.size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		}
	}
	if tcp {
		q.size = dns.MaxMsgSize
	}
	return q, 0
}

// bare is the answer to a packet that could not be read: its header with a response code, and nothing else.
func bare(packet []byte, rcode int) []byte {
	b := make([]byte, headerSize)
	copy(b, packet[:4])
	b[2] = b[2]&0x79 | 0x80 // opcode and RD stay
	b[3] = byte(rcode)
	return b
}

// reply begins the answer to a question.
func (q *query) reply(rcode int) *dns.Msg {
	m := &dns.Msg{Question: q.msg.Question}
	m.MsgHdr = dns.MsgHdr{
		Id: q.msg.Id, Response: true, Rcode: rcode, RecursionDesired: q.msg.RecursionDesired, CheckingDisabled: q.msg.CheckingDisabled,
	}
	return m
}

// refuse is an answer without records; why is shown by tools such as dig (RFC 8914).
func (q *query) refuse(rcode int, info uint16, why string) *dns.Msg {
	m := q.reply(rcode)
	if q.opt != nil {
		m.Extra = []dns.RR{&dns.OPT{
			Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: info, ExtraText: why}},
		}}
	}
	return m
}

// pack makes the bytes of an answer, not more than the client takes, into buf if that is large enough.
func (q *query) pack(m *dns.Msg, buf []byte) []byte {
	q.addOPT(m)
	m.Compress = true
	if b, err := m.PackBuffer(buf); err == nil && len(b) <= q.size {
		return b
	}
	if opt := m.IsEdns0(); opt != nil { // additional records go first, which is no truncation (RFC 2181, 9)
		m.Extra = []dns.RR{opt}
	} else {
		m.Extra = nil
	}
	m.Truncate(q.size)
	m.Compress = true
	if b, err := m.PackBuffer(buf); err == nil && len(b) <= q.size {
		return b
	}
	// Left: what an upstream sent that cannot be written again.
	b, err := q.reply(dns.RcodeServerFailure).PackBuffer(buf)
	if err != nil {
		return nil
	}
	return b
}

// addOPT gives the answer an OPT record if the question had one: RFC 6891, 6.1.1. The DO bit is copied (RFC 3225, 3).
func (q *query) addOPT(m *dns.Msg) {
	if q.opt == nil {
		return
	}
	opt := m.IsEdns0()
	if opt == nil {
		opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		m.Extra = append(m.Extra, opt)
	}
	opt.SetUDPSize(maxUDP)
	opt.SetDo(q.opt.Do())
}

// meta reports whether t is no type of data: OPT, and 128 to 255, but for ANY (RFC 6895, 3.1).
func meta(t uint16) bool {
	return t == dns.TypeOPT || t >= 128 && t < 255
}

// typeLabel is the name of a type, of which there are few, so that nobody can make metrics grow.
func typeLabel(t uint16) string {
	switch t {
	case dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeSOA, dns.TypeNS, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeANY,
		dns.TypeHTTPS, dns.TypeSVCB, dns.TypeDS, dns.TypeDNSKEY, dns.TypeNAPTR, dns.TypeCAA:
		return dns.TypeToString[t]
	}
	return other
}

// other stands for all that has no label of its own.
const other = "other"

// rcodeLabel is the name of a response code, of which there are few as well.
func rcodeLabel(rcode int) string {
	switch {
	case rcode == dns.RcodeBadVers: // the same number as BADSIG
		return "BADVERS"
	case rcode < 16 && dns.RcodeToString[rcode] != "":
		return dns.RcodeToString[rcode]
	}
	return other
}

// Package dns is the DNS server of one member: it answers for the network's domain out of a snapshot that is handed in, so that it works
// with every other member off. It knows nothing of members, certificates or links: a [Zone] is built from plain values.
//
// A question goes down a chain until somebody answers:
//
//	zone -> cache -> forward
//
// The zone is authoritative for the domain and for the reverse zones of the overlay prefixes; a question for a name in them never goes
// further. Cache and forward exist only if there is an upstream server, and only for this machine and those clients that the
// configuration names; else all other names are refused. This is no open resolver: it listens on the addresses that it is given, for what comes
// through the interfaces that it is given (the overlay's, and those of this member's workloads), and never on all of them.
//
// # What the zone holds
//
// For a member alice with a workload web that has a port http=8080/tcp, in the domain farm.internal:
//
//	farm.internal                         SOA, NS (this member)
//	alice.farm.internal                   A, AAAA
//	web.alice.farm.internal               A, AAAA
//	*.web.alice.farm.internal             A, AAAA: any name below the workload's, RFC 4592
//	_http._tcp.web.alice.farm.internal    SRV 0 1 8080 web.alice.farm.internal, with its addresses (RFC 2782)
//	_http._tcp.farm.internal              SRV of each http workload of all members
//	1.0.64.10.in-addr.arpa, ….ip6.arpa    PTR of each address within the overlay prefixes
//	0.64.10.in-addr.arpa, ….ip6.arpa      SOA, NS: the top of a reverse zone, at the first label boundary at or below the prefix
//
// All SRV records have priority 0 and weight 1, so that clients spread evenly; a list that does not fit into a message (64 KiB over TCP,
// somewhat over 1,000 instances) is cut to a part that starts at another instance each time. Names are A-labels (RFC 5890): clients
// translate what a user typed. Names that are no labels, twice there, or too long for the DNS with the domain behind them are left out,
// see [Zone.LeftOut]; a member or workload without an address exists, and has none.
//
// Every record lives for [TTL] seconds, and so does a negative answer (RFC 2308): NXDOMAIN, or NODATA for a name that has no record of
// that type or is there only because names below it are (an empty non-terminal), each with the SOA of its zone.
//
// # What is refused
//
// Classes other than IN, zone transfers and other meta types, names outside the zones without an upstream: REFUSED, with an extended
// error (RFC 8914). ANY gets one HINFO record (RFC 8482). Opcodes other than QUERY: NOTIMP. What is no question (a response, under 12
// bytes) gets no answer at all, and what cannot be read gets 12 bytes, FORMERR. No answer over UDP exceeds what the client takes, and at
// most 1,232 bytes, which pass every IPv6 path without fragments; what does not fit is cut, with the TC bit.
//
// # Limits
//
// A client, that is an IPv4 address or an IPv6 /112, which is the block of one member with all its workloads, has a budget of questions
// ([Config.RatePerClient]); what exceeds it is dropped before it is parsed. The table of clients has a fixed size. This machine's own
// addresses have no limit: nobody else can send from them (WireGuard takes from a peer only what comes from the peer's own addresses, and the
// leak guard drops the rest), and who runs programs here needs no name server to load the machine. At most 256 TCP connections are open, 16 for each client. At most 256 questions wait for an upstream at once,
// further ones get SERVFAIL. The cache holds at most 4 MiB. Workers read, answer and write in turn: a flood makes no goroutines.
//
// # Forwarding
//
// The upstream that answered last is asked first, then the others; over UDP from a new port for each question, over TCP if the answer
// was cut. Equal questions at the same time are asked once. Answers are cached for their TTL, at most an hour; negative ones for what
// their SOA says, at most 5 minutes; failures for 1 s (RFC 9520). An upstream that asks us our own question back is a loop: one is found with a
// question for a random name, asked when the server starts and again when answers are missing. It is then left alone until such a
// question stops coming back. When the machine's network changes, so may the upstreams ([Server.Forward]); nothing that the former ones said
// is kept then.
package dns

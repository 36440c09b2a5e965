package control

import (
	"context"
	"hash/maphash"
	"net/netip"

	"golang.org/x/time/rate"

	"github.com/gridwire/gridwire/mesh/control/p2p"
)

// What strangers may cost.
const (
	hellosPerConn  = 3 // proofs that one connection may try
	strangerHellos = 8 // proofs read and judged at once: bounds memory and signatures
	memberHellos   = 32
	enrolPerAddr   = 1 // requests a second from one address ...
	enrolBurst     = 8 // ... and at once: a joiner and its retries, some joiners behind one router
	enrolInAll     = 20
	enrolAllBurst  = 40
	addrBuckets    = 256 // addresses that fall into the same one share it, so that the table has a fixed size
)

// door holds back strangers that ask too often.
type door struct {
	strangers chan struct{} // one element for each proof being read or judged
	members   chan struct{} // the same, from addresses where members are: strangers cannot take these places
	all       *rate.Limiter
	seed      maphash.Seed
	addrs     [addrBuckets]*rate.Limiter
}

func newDoor() *door {
	d := &door{
		strangers: make(chan struct{}, strangerHellos),
		members:   make(chan struct{}, memberHellos),
		all:       rate.NewLimiter(enrolInAll, enrolAllBurst),
		seed:      maphash.MakeSeed(),
	}
	for i := range d.addrs {
		d.addrs[i] = rate.NewLimiter(enrolPerAddr, enrolBurst)
	}
	return d
}

// enterHello admits one more proof on a connection, waiting for a free place until ctx ends. leave gives the place back.
func (d *door) enterHello(ctx context.Context, conn *p2p.Conn, member bool) (leave func(), ok bool) {
	if conn.Attempt() > hellosPerConn {
		return nil, false
	}
	places := d.strangers
	if member {
		places = d.members
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	case <-ctx.Done():
		return nil, false
	}
}

// enterEnrol admits one more enrolment request of a stranger.
func (d *door) enterEnrol(a netip.Addr) bool {
	if p, err := a.Prefix(56); err == nil && a.Is6() {
		a = p.Addr()
	}
	b := a.As16()
	return d.addrs[maphash.Bytes(d.seed, b[:])%addrBuckets].Allow() && d.all.Allow()
}

package enrol

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	forwardTimeout = 10 * time.Second
	maxForwards    = 64 // at one time

	// A farm of machines behind one address joins at once: 20, then 2 a second; a joiner that is told to slow down tries again.
	strangerRate  = 2
	strangerBurst = 20
	// Members renew and forward.
	memberRate  = 20
	memberBurst = 200
	// All strangers together: a request costs an HPKE opening, a certificate and a write to the disk.
	allRate  = 50
	allBurst = 100

	rateSlots = 1024
)

// HandlerConfig is what NewHandler needs.
type HandlerConfig struct {
	Network mesh.Network
	Self    mesh.NodeID
	Issuer  func() *Issuer    // nil where, or while, this member is none
	View    func() *mesh.View // must not block
	// Send passes a frame to a member, by a connection to it or a new one, and returns its answer. It returns soon after ctx ends.
	Send func(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error)
	Now  func() time.Time
	Log  *slog.Logger
}

// Handler answers the enrolment protocol at a member: as the issuer, or by passing the request to the issuer it names.
type Handler struct {
	cfg   HandlerConfig
	rates *rates
	slots chan struct{} // one for each request being forwarded
}

// NewHandler checks cfg. It starts nothing.
func NewHandler(cfg HandlerConfig) (*Handler, error) {
	if cfg.Self.IsZero() || cfg.View == nil || cfg.Send == nil || cfg.Now == nil {
		return nil, errors.New("enrolment: Self, View, Send and Now are all required")
	}
	if cfg.Issuer == nil {
		cfg.Issuer = func() *Issuer { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Handler{cfg: cfg, rates: newRates(), slots: make(chan struct{}, maxForwards)}, nil
}

// Handle answers one frame, which came from this address, by a proven member or a stranger. A member without an
// address stands for this node itself (an issuer that renews its own certificate), which no limit applies to. It never returns nil.
func (h *Handler) Handle(ctx context.Context, from netip.AddrPort, member bool, f *wire.EnrolFrame) *wire.EnrolResponse {
	if local := member && !from.IsValid(); !local && !h.rates.allow(from.Addr(), member, h.cfg.Now()) {
		return plain(refuse(wire.EnrolError_ENROL_RATE_LIMITED, "too many enrolment requests from %v: wait some seconds and try again", from.Addr()))
	}
	if err := wire.CheckEnrolFrame(f); err != nil {
		text := "the request is malformed: %v"
		if errors.Is(err, wire.ErrVersion) {
			text = "this member does not understand the request: %v"
		}
		return plain(refuse(wire.EnrolError_ENROL_BAD_REQUEST, text, err))
	}
	if mesh.NetworkID(f.GetNetwork()) != h.cfg.Network.ID {
		return plain(refuse(wire.EnrolError_ENROL_FOREIGN, "the token is for another network (%.16s...); this member is of network %s (%.16s...): "+
			"ask a member of the right network", mesh.NetworkID(f.GetNetwork()), h.cfg.Network.Name, h.cfg.Network.ID))
	}
	to := mesh.NodeID(f.GetIssuer())
	if to == h.cfg.Self {
		if i := h.cfg.Issuer(); i != nil {
			return i.Handle(f.GetSealedRequest())
		}
		return plain(refuse(wire.EnrolError_ENROL_UNREACHABLE, "this member issues certificates no more"))
	}
	return h.forward(ctx, to, f)
}

// forward passes the frame on, once.
func (h *Handler) forward(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) *wire.EnrolResponse {
	if f.GetHops() > 0 {
		return plain(refuse(wire.EnrolError_ENROL_UNREACHABLE, "the request came by way of another member already, and this one is not the issuer"))
	}
	m, ok := h.cfg.View().Member(to)
	if !ok {
		return plain(refuse(wire.EnrolError_ENROL_UNREACHABLE, "the issuer that was to answer (%s) is no member of network %s any more, or "+
			"this member has not heard of it yet", to.Short(), h.cfg.Network.Name))
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return plain(refuse(wire.EnrolError_ENROL_RATE_LIMITED, "this member forwards too many requests at the moment: try again in some seconds"))
	}
	g := proto.CloneOf(f)
	g.Hops++
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	resp, err := h.cfg.Send(ctx, to, g)
	if err == nil && resp == nil {
		err = errors.New("it gave no answer")
	}
	if err == nil && proto.Size(resp) > maxAnswer {
		err = fmt.Errorf("its answer has %d bytes, at most %d are passed on", proto.Size(resp), maxAnswer)
	}
	if err != nil {
		h.cfg.Log.Debug("enrolment request not forwarded", "issuer", m.Name, "err", err)
		return plain(refuse(wire.EnrolError_ENROL_UNREACHABLE, "the issuer %s cannot be reached from here: %v", m.Name, err))
	}
	return resp
}

// rates are token buckets in tables of fixed size, by address. Two addresses may share a bucket; which ones, nobody can know or choose.
type rates struct {
	seed      maphash.Seed
	strangers [rateSlots]*rate.Limiter
	members   [rateSlots]*rate.Limiter
	all       *rate.Limiter // strangers
}

func newRates() *rates {
	r := &rates{seed: maphash.MakeSeed(), all: rate.NewLimiter(allRate, allBurst)}
	for n := range rateSlots {
		r.strangers[n] = rate.NewLimiter(strangerRate, strangerBurst)
		r.members[n] = rate.NewLimiter(memberRate, memberBurst)
	}
	return r
}

// allow takes one request from the budgets of addr: of its /32, or its /56, which is what one household gets (RIPE-690).
func (r *rates) allow(addr netip.Addr, member bool, now time.Time) bool {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 56
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return false
	}
	slot := maphash.Comparable(r.seed, p) % rateSlots
	if member {
		return r.members[slot].AllowN(now, 1)
	}
	return r.strangers[slot].AllowN(now, 1) && r.all.AllowN(now, 1)
}

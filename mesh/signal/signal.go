package signal

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	maxHops  = 2                // forwarders
	maxDelay = 10 * time.Second // what forwarders may claim; more is nonsense

	sendTimeout    = 3 * time.Second // one frame to one member, its forwarding included
	connectTimeout = 2 * time.Second
	maxForwards    = 256 // at one time
)

// Conn is a control connection to a member, as far as signalling needs to know it.
type Conn struct {
	ID     mesh.NodeID
	RTT    time.Duration // of late; 0: unknown
	MinRTT time.Duration // the least on this path; 0: unknown
}

// Carrier moves frames over the connections that there are. Its methods are called concurrently and must return soon after their
// context ends.
type Carrier interface {
	// SendSignal sends f to a member with a direct connection and returns its answer. It neither keeps nor changes f.
	SendSignal(ctx context.Context, to mesh.NodeID, f *wire.SignalFrame) (*wire.SignalAck, error)
	// Connections returns a snapshot of the connections to proven members. It does not block.
	Connections() []Conn
	// Connect dials a member at the addresses of its record.
	Connect(ctx context.Context, id mesh.NodeID) error
}

// Config is what New needs. All of it but Carried and Log is required.
type Config struct {
	Self    ed25519.PrivateKey // identity key: signs envelopes
	Seal    *ecdh.PrivateKey   // X25519: opens envelopes to this node
	View    func() *mesh.View  // must not block
	Carrier Carrier
	// Deliver takes a signal that arrived; delay is how long it was on its way, as the forwarders estimate it. It must not block.
	Deliver func(from mesh.NodeID, s *wire.Signal, delay time.Duration)
	// Carried hears who brought a signal: by is the member that it was handed to (sent), or that handed it over (before Deliver); peer itself
	// where nobody is in between. It must not block.
	Carried func(peer, by mesh.NodeID, sent bool)
	Now     func() time.Time
	Log     *slog.Logger
}

// Counters count frames since New.
type Counters struct {
	Sent       uint64 // by Send, arrived
	Failed     uint64 // by Send, given up
	Delivered  uint64 // to this node
	Forwarded  uint64 // for others, arrived
	Duplicates uint64 // arrived again by another way
	Refused    uint64 // malformed, from no member, over a limit, or with no way on
}

// Signal sends, receives and forwards. Its methods may be called concurrently.
type Signal struct {
	cfg   Config
	self  mesh.NodeID
	rates *rates
	slots chan struct{} // one for each frame being forwarded

	mu   sync.Mutex // guards seen; nothing is called while it is held
	seen *seen

	sent, failed, delivered, forwarded, duplicates, refused atomic.Uint64
}

// New checks cfg. It starts nothing.
func New(cfg Config) (*Signal, error) {
	switch {
	case len(cfg.Self) != ed25519.PrivateKeySize:
		return nil, fmt.Errorf("signal: identity key of %d bytes, want %d", len(cfg.Self), ed25519.PrivateKeySize)
	case cfg.Seal == nil || cfg.Seal.Curve() != ecdh.X25519():
		return nil, errors.New("signal: no X25519 seal key")
	case cfg.View == nil || cfg.Carrier == nil || cfg.Deliver == nil || cfg.Now == nil:
		return nil, errors.New("signal: View, Carrier, Deliver and Now are all required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Carried == nil {
		cfg.Carried = func(mesh.NodeID, mesh.NodeID, bool) {}
	}
	return &Signal{
		cfg:   cfg,
		self:  mesh.NodeIDOf(cfg.Self.Public().(ed25519.PublicKey)),
		rates: newRates(),
		slots: make(chan struct{}, maxForwards),
		seen:  newSeen(maxSeen),
	}, nil
}

// Counters returns the current counts.
func (s *Signal) Counters() Counters {
	return Counters{
		Sent: s.sent.Load(), Failed: s.failed.Load(), Delivered: s.delivered.Load(),
		Forwarded: s.forwarded.Load(), Duplicates: s.duplicates.Load(), Refused: s.refused.Load(),
	}
}

// Handle takes a frame that the member from sent on its connection: it delivers it, or forwards it and waits for the answer (at most
// about 5 s, and not after ctx has ended). The answer's reason is a sentence about this hop and those after it. Handle keeps no reference to f.
func (s *Signal) Handle(ctx context.Context, from mesh.NodeID, f *wire.SignalFrame) *wire.SignalAck {
	err := s.handle(ctx, from, f)
	if err == nil {
		return &wire.SignalAck{Delivered: true}
	}
	s.refused.Add(1)
	s.cfg.Log.Debug("signal not carried", "from", from.Short(), "reason", err)
	return &wire.SignalAck{Reason: clip(err.Error())}
}

func (s *Signal) handle(ctx context.Context, from mesh.NodeID, f *wire.SignalFrame) error {
	now := s.cfg.Now()
	if !s.rates.neighbour(from, now) {
		return errors.New("too many signals on this connection: send fewer")
	}
	e, origin, to, err := wire.ParseEnvelope(f.GetEnvelope())
	if err != nil {
		return err
	}
	view := s.cfg.View()
	if err := s.admit(view, from, origin, f); err != nil {
		return err
	}
	if !s.rates.origin(origin, now) {
		return fmt.Errorf("too many signals from %s: send fewer", nameOf(view, origin))
	}
	delay := arrivalDelay(f, from, s.cfg.Carrier.Connections())
	key := seenKey{origin, [16]byte(e.GetId())}
	if to == s.self {
		return s.deliver(e, origin, from, key, delay)
	}
	if _, ok := view.Member(to); !ok {
		return fmt.Errorf("%s is not a member, as far as this member knows", to.Short())
	}
	if f.GetHops() >= maxHops {
		return fmt.Errorf("it already came by way of %d members, which is the limit", f.GetHops())
	}
	switch s.claim(key) {
	case done:
		s.duplicates.Add(1)
		return nil
	case inFlight:
		s.duplicates.Add(1)
		return errors.New("the same signal is already on its way")
	}
	err = s.forward(ctx, view, from, origin, to, f, delay, now)
	s.finish(key, err == nil)
	if err == nil {
		s.forwarded.Add(1)
	}
	return err
}

// admit checks what a frame says about its way against who sent it.
func (s *Signal) admit(view *mesh.View, from, origin mesh.NodeID, f *wire.SignalFrame) error {
	if _, ok := view.Member(origin); !ok {
		return fmt.Errorf("its sender %s is not a member, as far as this member knows", origin.Short())
	}
	switch hops := f.GetHops(); {
	case hops > maxHops:
		return fmt.Errorf("it came by way of %d members, at most %d are allowed", hops, maxHops)
	case hops == 0 && origin != from:
		return errors.New("it came from another member than its sender, but says that nobody forwarded it")
	case origin == s.self:
		return errors.New("it is this member's own, come back")
	}
	return nil
}

func (s *Signal) deliver(e *wire.Envelope, origin, by mesh.NodeID, key seenKey, delay time.Duration) error {
	sig, err := wire.OpenEnvelope(e, s.self, s.cfg.Seal)
	if err != nil {
		return err
	}
	if s.claim(key) != fresh {
		s.duplicates.Add(1)
		return nil
	}
	s.finish(key, true)
	s.delivered.Add(1)
	s.cfg.Carried(origin, by, false)
	s.cfg.Deliver(origin, sig, delay)
	return nil
}

func (s *Signal) claim(k seenKey) status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.claim(k)
}

func (s *Signal) finish(k seenKey, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.finish(k, ok)
}

// arrivalDelay is the one-way delay until now: what the frame says, and half the least round trip of the connection it came on. The newest
// one can be several times as long, where a machine was busy; and whoever starts its checks that much later than the peer does finds a
// router that accepts unsolicited packets holding the tuple.
func arrivalDelay(f *wire.SignalFrame, from mesh.NodeID, conns []Conn) time.Duration {
	d := time.Duration(f.GetDelay()) * time.Microsecond
	for _, c := range conns {
		if c.ID == from {
			rtt := c.RTT
			if c.MinRTT > 0 && (rtt <= 0 || c.MinRTT < rtt) {
				rtt = c.MinRTT
			}
			d += max(rtt, 0) / 2
			break
		}
	}
	return min(d, maxDelay)
}

// nameOf is how sentences call a member.
func nameOf(view *mesh.View, id mesh.NodeID) string {
	if m, ok := view.Member(id); ok {
		return string(m.Name)
	}
	return id.Short()
}

// clip bounds a reason, which may quote others' reasons, and keeps it UTF-8.
func clip(s string) string {
	const limit = 240
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.ToValidUTF8(s, "")
}

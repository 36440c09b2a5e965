package enrol

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hmac"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// IssuerConfig is what NewIssuer needs. The functions are called concurrently; all but Save and Load answer from snapshots at once,
// and none may call the Issuer.
type IssuerConfig struct {
	Key    pki.Key          // the identity key of this member, which is the issuer's key
	Seal   *ecdh.PrivateKey // X25519: requests are sealed to it
	Root   *pki.Root
	Issuer *pki.Issuer

	View  func() *mesh.View
	Taken func(mesh.Name) bool // in use, or was until less than 7 days ago; nil: what View says
	// Gone is who is revoked or has left, not who has expired: their names and addresses are free. nil: nobody
	Gone    func() map[mesh.NodeID]bool
	Revoked func(chain [][]byte) error                    // nil, or why the chain is revoked; nil function: nobody is
	Revoke  func(pki.Revoked) error                       // puts an entry into this issuer's list and spreads it; nil: rekeying is refused
	Start   func() (items []*wire.Item, netSecret []byte) // what a new member starts with

	Save func([]byte) error     // returns when the bytes are safe on disk
	Load func() ([]byte, error) // fs.ErrNotExist: nothing was ever saved

	Now func() time.Time
	Log *slog.Logger

	RolledBack bool          // Load returned an earlier generation: its invitations admit nobody
	Lifetime   time.Duration // of certificates; 0: pki.DefaultLifetime
}

// Issuer invites, admits and renews. Its methods may be called concurrently.
type Issuer struct {
	cfg    IssuerConfig
	self   mesh.NodeID
	secret []byte // invitations' secrets are derived from it

	current atomic.Pointer[state]
	// mu serialises decisions. It is held while Save writes: two uses counted from the same generation would be one too many, and
	// the answer may not leave before the count is safe. Besides Save only Revoked is called under it, which answers from a snapshot.
	mu   sync.Mutex
	wake chan struct{} // a rekeying is to be followed by a revocation; one slot
}

// NewIssuer loads the state. With RolledBack it voids all invitations in it and saves that before it returns. It starts nothing; Run
// carries out what rekeying leaves to do.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("starting the issuer: %w", err)
	}
	secret, err := invitationKey(cfg.Key, cfg.Root.Network.ID)
	if err != nil {
		return nil, fmt.Errorf("starting the issuer: %w", err)
	}
	i := &Issuer{
		cfg:    cfg,
		self:   mesh.NodeIDOf(cfg.Key.Public().(ed25519.PublicKey)),
		secret: secret,
		wake:   make(chan struct{}, 1),
	}
	s := newState()
	b, err := cfg.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.cursor = 2 // the founder has the first address
	case err != nil:
		return nil, fmt.Errorf("starting the issuer: reading who was invited: %w", err)
	default:
		if s, err = decodeState(b); err != nil {
			return nil, fmt.Errorf("starting the issuer: %w", err)
		}
	}
	i.current.Store(s)
	if cfg.RolledBack {
		if err := i.save(s.void(cfg.Now())); err != nil {
			return nil, fmt.Errorf("starting the issuer: voiding the invitations made before the state was lost: %w", err)
		}
		cfg.Log.Warn("the issuer's state went back a generation: invitations made before admit nobody; make new ones",
			"invitations", len(s.invitations))
	}
	return i, nil
}

func (cfg *IssuerConfig) check() error {
	switch {
	case cfg.Root == nil || cfg.Issuer == nil:
		return errors.New("no root or no issuer certificate")
	case len(cfg.Key) != ed25519.PrivateKeySize:
		return fmt.Errorf("key of %d bytes, want %d", len(cfg.Key), ed25519.PrivateKeySize)
	case mesh.NodeIDOf(cfg.Key.Public().(ed25519.PublicKey)) != cfg.Issuer.NodeID:
		return fmt.Errorf("the key is not the one of the issuer certificate of %s", cfg.Issuer.Name)
	case cfg.Seal == nil || cfg.Seal.Curve() != ecdh.X25519():
		return errors.New("no X25519 seal key")
	case cfg.View == nil || cfg.Start == nil || cfg.Save == nil || cfg.Load == nil || cfg.Now == nil:
		return errors.New("the functions View, Start, Save, Load and Now are all required")
	}
	if cfg.Taken == nil {
		cfg.Taken = func(mesh.Name) bool { return false }
	}
	if cfg.Gone == nil {
		cfg.Gone = func() map[mesh.NodeID]bool { return nil }
	}
	if cfg.Revoked == nil {
		cfg.Revoked = func([][]byte) error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Handle answers one sealed request: it redeems an invitation or renews a certificate. A use is counted on disk before the answer is
// there. The same CSR for the same invitation gets the same certificate again. Refusals are sealed like certificates, where the
// request could be opened.
func (i *Issuer) Handle(sealed []byte) *wire.EnrolResponse {
	b, err := wire.OpenWith(i.cfg.Seal, requestInfo(i.cfg.Root.Network.ID, i.self), sealed)
	if err != nil {
		return plain(refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the request does not open with the key of issuer %s: it was altered on its way, "+
			"or the issuer's key is another one than when the token was made; try again, or %s", i.cfg.Issuer.Name, askAgain))
	}
	a, req, refusal := parseAsk(b)
	if req == nil {
		return plain(refusal)
	}
	var res *wire.EnrolResult
	if refusal == nil {
		res, refusal = i.serve(a)
	}
	if refusal != nil {
		i.cfg.Log.Debug("enrolment refused", "code", refusal.Code, "reason", refusal.Text)
		res = &wire.EnrolResult{Code: refusal.Code, Error: clean(refusal.Text)}
	}
	return seal(req, res)
}

// seal makes the answer that only the asker can open.
func seal(req *wire.EnrolRequest, res *wire.EnrolResult) *wire.EnrolResponse {
	b, err := proto.Marshal(res)
	if err != nil {
		return plain(refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the answer cannot be encoded: %v", err))
	}
	sealed, err := wire.SealTo([32]byte(req.GetReplyKey()), resultInfo(req.GetCsr()), b)
	if err != nil {
		return plain(refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the answer cannot be sealed to the reply key of the request: %v", err))
	}
	return &wire.EnrolResponse{SealedResult: sealed}
}

func (i *Issuer) serve(a *ask) (*wire.EnrolResult, *Error) {
	now := i.cfg.Now().UTC()
	var leaf *pki.Leaf
	name := a.wish
	authentic := false
	if a.renewal {
		var refusal *Error
		if leaf, refusal = i.proven(a, now); refusal != nil {
			return nil, refusal
		}
		name = leaf.Name
	} else {
		authentic = hmac.Equal(a.req.GetHmac(), enrolMAC(invitationSecret(i.secret, a.inv), a.req.GetCsr(), a.req.GetNonce()))
		if inv := i.current.Load().invitations[a.inv]; inv != nil && inv.Name != "" {
			name = inv.Name
		}
	}
	f := i.facts(name)
	der, refusal := i.decide(a, func(s *state) (*grant, *Error) {
		if a.renewal {
			return s.renew(a, leaf, f, now)
		}
		return s.redeem(a, authentic, f, now)
	}, now)
	if refusal != nil {
		return nil, refusal
	}
	res := &wire.EnrolResult{Chain: [][]byte{der, i.cfg.Issuer.Cert.Raw}, Root: i.cfg.Root.Cert.Raw}
	if !a.renewal {
		items, netSecret := i.cfg.Start()
		res.Items, res.NetworkSecret = clipItems(items, startItems, maxStartItems), netSecret
	}
	return res, nil
}

// proven checks that a renewal comes from the holder of a certificate of this network that is not revoked, valid or expired less than
// keepExpired ago. One that is not valid yet shows only that this issuer's clock is behind.
func (i *Issuer) proven(a *ask, now time.Time) (*pki.Leaf, *Error) {
	chain := a.req.GetRenewChain()
	leaf, _, err := pki.VerifyAtAnyTime(chain, i.cfg.Root)
	switch {
	case errors.Is(err, pki.ErrWrongNetwork):
		return nil, refuse(wire.EnrolError_ENROL_FOREIGN, "the certificate to renew is not of network %s: %v", i.cfg.Root.Network.Name, err)
	case err != nil:
		return nil, refuse(wire.EnrolError_ENROL_FORGED, "the certificate to renew is no good: %v; join again with an invitation", err)
	case !ed25519.Verify(leaf.ID.PublicKey(), renewText(a.req.GetCsr(), a.req.GetNonce(), a.req.GetReplyKey()), a.req.GetRenewSignature()):
		return nil, refuse(wire.EnrolError_ENROL_FORGED, "the renewal is forged: it is not signed by the key of %s", leaf.Name)
	case now.After(leaf.NotAfter.Add(keepExpired)):
		return nil, refuse(wire.EnrolError_ENROL_EXPIRED, "the certificate of %s expired on %s, more than 7 days ago: it cannot be renewed; "+
			"join again with an invitation", leaf.Name, stamp(leaf.NotAfter))
	}
	// A rekeyed identity is revoked soon after; a repeated request must still get its answer, which the state decides.
	if i.current.Load().rekeyed[leaf.ID] != nil {
		return leaf, nil
	}
	if err := i.cfg.Revoked(chain); err != nil {
		return nil, refuse(wire.EnrolError_ENROL_REVOKED, "the certificate of %s is revoked: %v; if the machine is to return, %s",
			leaf.Name, err, askAgain)
	}
	if a.id != leaf.ID && i.cfg.Revoke == nil {
		return nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "this issuer cannot replace keys; use another issuer")
	}
	return leaf, nil
}

// facts takes the snapshots that a decision about name needs.
func (i *Issuer) facts(name mesh.Name) facts {
	f := facts{view: i.cfg.View(), gone: i.cfg.Gone(), prefix: i.cfg.Issuer.IPv4}
	f.taken = name != "" && i.cfg.Taken(name)
	return f
}

// decide makes a decision, signs what it grants and returns the certificate when the new state is on disk.
func (i *Issuer) decide(a *ask, core func(*state) (*grant, *Error), now time.Time) ([]byte, *Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.current.Load()
	g, refusal := core(s)
	if refusal != nil {
		return nil, refusal
	}
	if g.again != nil {
		return g.again, nil
	}
	r := pki.LeafRequest{
		Identity: a.id.PublicKey(), WireGuard: a.wg, Name: g.name, IPv4: g.ipv4, Tags: g.tags, Routes: g.routes, Lifetime: i.cfg.Lifetime,
		Admitted: g.admitted,
	}
	der, leaf, refusal := i.sign(r, now)
	if refusal != nil {
		return nil, refusal
	}
	if err := i.store(s.commit(g, a, leaf, der, now)); err != nil {
		return nil, cannotWrite(err)
	}
	switch {
	case g.replaces != nil:
		i.cfg.Log.Info("rekeyed a member", "name", leaf.Name, "id", leaf.ID.Short(), "was", g.replaces.ID.Short())
		select {
		case i.wake <- struct{}{}:
		default:
		}
	case a.renewal:
		i.cfg.Log.Info("renewed a certificate", "name", leaf.Name, "id", leaf.ID.Short(), "until", leaf.NotAfter)
	default:
		i.cfg.Log.Info("admitted a member", "name", leaf.Name, "id", leaf.ID.Short(), "invitation", a.inv)
	}
	return der, nil
}

func cannotWrite(err error) *Error {
	return refuse(wire.EnrolError_ENROL_UNREACHABLE,
		"the issuer cannot write its state (%v), so it admits nobody; nothing was used up: see to its disk and try again", err)
}

// sign makes a certificate and reads it back: what Verify refuses, or what is revoked already, is not given out.
func (i *Issuer) sign(r pki.LeafRequest, now time.Time) ([]byte, *pki.Leaf, *Error) {
	der, err := i.cfg.Issuer.Sign(i.cfg.Key, i.cfg.Root, r, now)
	if err != nil {
		return nil, nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the issuer cannot certify this: %v", err)
	}
	leaf, err := i.cfg.Issuer.Verify(der, i.cfg.Root, now)
	if err != nil {
		return nil, nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the issuer cannot certify this: %v", err)
	}
	if err := i.cfg.Revoked([][]byte{der, i.cfg.Issuer.Cert.Raw}); err != nil {
		return nil, nil, refuse(wire.EnrolError_ENROL_REVOKED, "this identity key or its issuer is revoked (%v): empty the state folder of the joining "+
			"machine, so that it makes a new key, and %s", err, askAgain)
	}
	return der, leaf, nil
}

// store makes s the current state once it is on disk. The caller holds mu.
func (i *Issuer) store(s *state) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	if err := i.cfg.Save(b); err != nil {
		return fmt.Errorf("saving who was invited: %w", err)
	}
	i.current.Store(s)
	return nil
}

func (i *Issuer) save(s *state) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.store(s)
}

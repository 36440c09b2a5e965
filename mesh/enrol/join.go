package enrol

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	stagger        = 100 * time.Millisecond // between the first tries of one member and the next
	attemptTimeout = 15 * time.Second       // one member: dialling, and forwarding to the issuer
	slowDown       = time.Second            // before trying again a member that limits its rate
	maxSlowDowns   = 5
)

// Membership is all that makes a node a member.
type Membership struct {
	Keys
	Chain  [][]byte     // leaf, issuer
	Root   []byte       // DER
	Secret []byte       // the network's, for names on the LAN
	Items  []*wire.Item // what to start with: records, revocation lists, issuers
	// Bundle: the keys came out of an offline bundle, so others may have them: Rekey at the first issuer seen.
	Bundle bool
}

// Leaf parses the membership's root and certificate without judging the time.
func (m *Membership) Leaf() (*pki.Root, *pki.Leaf, *pki.Issuer, error) {
	root, err := pki.ParseRoot(m.Root)
	if err != nil {
		return nil, nil, nil, err
	}
	leaf, issuer, err := pki.VerifyAtAnyTime(m.Chain, root)
	if err != nil {
		return nil, nil, nil, err
	}
	return root, leaf, issuer, nil
}

// check is Leaf, and demands that the keys belong to the certificate.
func (m *Membership) check() (*pki.Root, *pki.Leaf, *pki.Issuer, error) {
	if err := m.Keys.check(); err != nil {
		return nil, nil, nil, err
	}
	root, leaf, issuer, err := m.Leaf()
	switch {
	case err != nil:
		return nil, nil, nil, err
	case leaf.ID != m.ID():
		return nil, nil, nil, fmt.Errorf("the certificate of %s is for another identity key (%s) than this node's (%s)",
			leaf.Name, leaf.ID.Short(), m.ID().Short())
	case leaf.WireGuard != m.Public():
		return nil, nil, nil, fmt.Errorf("the certificate of %s is for another WireGuard key (%v) than this node's (%v)",
			leaf.Name, leaf.WireGuard, m.Public())
	}
	return root, leaf, issuer, nil
}

// Open opens a stream of the enrolment protocol to a member at one of addrs. It returns soon after ctx ends, and the stream's reads
// and writes return when it is closed.
type Open func(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort) (io.ReadWriteCloser, error)

// Join redeems a token: it asks the members that the token names, in parallel, each 100 ms after the one before, all with the same
// CSR, and returns the membership when one of them brings the issuer's answer. name is the wished one; an invitation for a name gives
// that one (Membership.Leaf says which). A refusal by the issuer is an *Error and ends it at once; what members on the way say does
// not, as long as another may still answer. A token with an offline bundle is handed to JoinOffline, and keys are not used.
//
// Call it again with the same keys and name after any failure: the issuer gives the same certificate, without a further use.
func Join(ctx context.Context, token *wire.Token, keys Keys, name mesh.Name, open Open, now func() time.Time) (*Membership, error) {
	if err := wire.CheckToken(token); err != nil {
		return nil, fmt.Errorf("joining: the token: %w", err)
	}
	if token.GetOffline() != nil {
		return JoinOffline(token, now())
	}
	network, fail := token.GetNetworkName(), func(err error) (*Membership, error) {
		return nil, fmt.Errorf("joining network %s: %w", token.GetNetworkName(), err)
	}
	if err := keys.check(); err != nil {
		return fail(err)
	}
	if len(token.GetMembers()) == 0 {
		return fail(refuse(wire.EnrolError_ENROL_UNREACHABLE, "the token names no member to ask: make a new one on a member that has an address"))
	}
	x, err := newExchange(mesh.NetworkID(token.GetNetwork()), mesh.NodeID(token.GetIssuer()), [32]byte(token.GetIssuerSealKey()), keys, name,
		func(r *wire.EnrolRequest) {
			r.Invitation = token.GetInvitation()
			r.Hmac = enrolMAC(token.GetSecret(), r.GetCsr(), r.GetNonce())
		})
	if err != nil {
		return fail(err)
	}
	res, err := x.askAll(ctx, token.GetMembers(), open)
	if err != nil {
		if expires := time.UnixMilli(token.GetExpires()); now().After(expires) && Code(err) == wire.EnrolError_ENROL_UNREACHABLE {
			err = &Error{Code: wire.EnrolError_ENROL_EXPIRED, Hearsay: true, Text: fmt.Sprintf(
				"by this machine's clock the token expired on %s; %s. (Besides: %v)", stamp(expires), askAgain, err)}
		}
		return fail(err)
	}
	m := &Membership{Keys: keys, Chain: res.GetChain(), Root: res.GetRoot(), Secret: res.GetNetworkSecret(), Items: goodItems(res.GetItems())}
	if err := m.accept(token, now()); err != nil {
		return fail(fmt.Errorf("the issuer's answer is no good: %w; ask an operator of network %s to look at its issuer", err, network))
	}
	return m, nil
}

// WishFrom makes a wish for a name out of a host name: its first label, in lower case, with hyphens for what no name may contain.
// Empty if nothing is left.
func WishFrom(host string) mesh.Name {
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	label = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, label)
	label = strings.Trim(label[:min(len(label), 63)], "-")
	n, err := mesh.ParseName(label)
	if err != nil {
		return ""
	}
	return n
}

// accept checks an admission against the token: the network and the issuer are the ones named there.
func (m *Membership) accept(token *wire.Token, now time.Time) error {
	root, leaf, issuer, err := m.check()
	switch {
	case err != nil:
		return err
	case root.Network.ID != mesh.NetworkID(token.GetNetwork()):
		return fmt.Errorf("its root is of another network (%.16s...) than the token (%.16s...)", root.Network.ID, mesh.NetworkID(token.GetNetwork()))
	case issuer.NodeID != mesh.NodeID(token.GetIssuer()):
		return fmt.Errorf("it was signed by %s, not by the issuer that the token names", issuer.Name)
	case len(m.Secret) == 0:
		return errors.New("the network secret is missing")
	case now.After(leaf.NotAfter):
		// A clock that is behind does no harm: whatever is signed moves the trusted time forward.
		return fmt.Errorf("the certificate ended on %s and here it is %s: check this machine's clock", stamp(leaf.NotAfter), stamp(now))
	}
	return nil
}

// askAll tries all members; see Join.
func (x *exchange) askAll(ctx context.Context, members []*wire.TokenMember, open Open) (*wire.EnrolResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		n   int
		res *wire.EnrolResult
		err error
	}
	answers := make(chan answer)
	left := len(members)
	defer func() { // whoever is still busy sees the cancelled context; nobody outlives this call
		cancel()
		for ; left > 0; left-- {
			<-answers
		}
	}()
	for n, m := range members {
		go func() { // askAll waits: one receive for each
			res, err := x.askOne(ctx, time.Duration(n)*stagger, m, open)
			answers <- answer{n, res, err}
		}()
	}
	errs := make([]error, len(members))
	for left > 0 {
		a := <-answers
		left--
		if a.err == nil {
			return a.res, nil
		}
		var refusal *Error
		if errors.As(a.err, &refusal) && !refusal.Hearsay && refusal.Code != wire.EnrolError_ENROL_UNREACHABLE {
			return nil, refusal
		}
		errs[a.n] = a.err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, refuse(wire.EnrolError_ENROL_UNREACHABLE, "it took too long, or was interrupted (%v): %s", err, sum(members, errs))
	}
	return nil, worst(members, errs)
}

// worst chooses among refusals by hearsay and members that did not answer: what the issuer itself said, then what any member said
// other than "unreachable", then all of them in one sentence.
func worst(members []*wire.TokenMember, errs []error) error {
	var heard *Error
	for _, err := range errs {
		var e *Error
		if !errors.As(err, &e) {
			continue
		}
		if !e.Hearsay {
			return e
		}
		if heard == nil && e.Code != wire.EnrolError_ENROL_UNREACHABLE {
			heard = e
		}
	}
	if heard != nil {
		return heard
	}
	return refuse(wire.EnrolError_ENROL_UNREACHABLE, "no member that the token names could bring an answer of the issuer: %s. See that UDP to these "+
		"addresses is let through, that one of these members and the issuer are on, or %s", sum(members, errs), askAgain)
}

func sum(members []*wire.TokenMember, errs []error) string {
	var parts []string
	for n, m := range members {
		if errs[n] == nil {
			continue
		}
		text, id := errs[n].Error(), mesh.NodeID(m.GetNodeId()).Short()
		if !strings.Contains(text, id) { // what dialling says names the member already
			text = fmt.Sprintf("%s at %v: %s", id, addrsOf(m), text)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

func addrsOf(m *wire.TokenMember) []netip.AddrPort {
	addrs, err := wire.ParseAddrPorts(m.GetAddresses())
	if err != nil { // CheckToken let them through
		return nil
	}
	return addrs
}

// askOne tries one member after a delay, and again while it says that it is asked too often.
func (x *exchange) askOne(ctx context.Context, delay time.Duration, m *wire.TokenMember, open Open) (*wire.EnrolResult, error) {
	for tries := 0; ; tries++ {
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		res, err := x.once(ctx, mesh.NodeID(m.GetNodeId()), addrsOf(m), open)
		if err == nil || Code(err) != wire.EnrolError_ENROL_RATE_LIMITED || tries == maxSlowDowns {
			return res, err
		}
		delay = slowDown << min(tries, 2)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// once sends the frame to one member and reads the answer.
func (x *exchange) once(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort, open Open) (*wire.EnrolResult, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := exchangeFrames(ctx, id, addrs, x.frame, open)
	if err != nil {
		return nil, err
	}
	return x.open(resp)
}

// exchangeFrames sends f on a stream of its own and reads the answer.
func exchangeFrames(ctx context.Context, id mesh.NodeID, addrs []netip.AddrPort, f *wire.EnrolFrame, open Open) (*wire.EnrolResponse, error) {
	stream, err := open(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })() // ends the reads below
	if err := wire.WriteFrame(stream, f); err != nil {
		return nil, ended(ctx, err)
	}
	resp := new(wire.EnrolResponse)
	if err := wire.ReadFrame(stream, resp, maxAnswer); err != nil {
		return nil, ended(ctx, err)
	}
	return resp, nil
}

// ended prefers the reason of a context that ended over the error of the stream it closed.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("no answer: %w", cause)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("it closed the stream without an answer")
	}
	return err
}

// goodItems drops what does not even have the form of an item; the directory judges the rest.
func goodItems(items []*wire.Item) []*wire.Item { return clipItems(items, maxAnswer, 2*maxStartItems) }

// JoinOffline takes a bundle into use: no issuer is asked. Its keys are in the token, so Membership.Bundle is set: see Rekey.
func JoinOffline(token *wire.Token, now time.Time) (*Membership, error) {
	fail := func(err error) (*Membership, error) {
		return nil, fmt.Errorf("joining network %s with an offline bundle: %w", token.GetNetworkName(), err)
	}
	if err := wire.CheckToken(token); err != nil {
		return fail(err)
	}
	b := token.GetOffline()
	if b == nil {
		return fail(errors.New("the token has none; it needs the issuer"))
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fail(fmt.Errorf("drawing a seal key: %w", err))
	}
	m := &Membership{
		Keys:   Keys{Identity: ed25519.NewKeyFromSeed(b.GetIdentitySeed()), WireGuard: [32]byte(b.GetWireguardKey()), Seal: seal},
		Chain:  b.GetChain(),
		Root:   b.GetRoot(),
		Secret: b.GetNetworkSecret(),
		Items:  goodItems(b.GetItems()),
		Bundle: true,
	}
	if expires := time.UnixMilli(token.GetExpires()); now.After(expires) {
		return fail(refuse(wire.EnrolError_ENROL_EXPIRED, "it expired on %s, and here it is %s; %s", stamp(expires), stamp(now), askAgain))
	}
	if err := m.accept(token, now); err != nil {
		return fail(refuse(wire.EnrolError_ENROL_FORGED, "it is forged or damaged: %v; %s", err, askAgain))
	}
	return m, nil
}

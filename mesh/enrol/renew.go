package enrol

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	renewTimeout = 10 * time.Second // of one issuer
	renewStagger = 2 * time.Second  // an issuer that is off keeps the next from being asked for no longer than this
)

// Send passes a frame to a member and returns its answer; for the node itself (an issuer renewing its own certificate) it calls
// Handler.Handle. It returns soon after ctx ends.
type Send func(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error)

// Renew gets a new certificate for the same keys, name, tags and routes, from the first of issuers (their View entries: node ID and seal
// key are used) that gives one, and returns its chain. The WireGuard key stays, so no packet is lost. The current certificate may have
// expired, by at most 7 days. The IPv4 address changes if another issuer than before renews. A refusal is an *Error.
//
// Of a Bundle use Rekey: Renew refuses it.
func Renew(ctx context.Context, m *Membership, issuers []*mesh.Member, send Send, now func() time.Time) ([][]byte, error) {
	if m.Bundle {
		return nil, errors.New("renewing: the keys are those of an offline bundle, which others may have: rekey instead")
	}
	chain, err := m.renewed(ctx, m.Keys, issuers, send, now)
	if err != nil {
		return nil, fmt.Errorf("renewing this node's certificate: %w", err)
	}
	return chain, nil
}

// Rekey gets a certificate under the same name for fresh keys and returns the membership with them; m is not changed. The issuer revokes the
// old certificate and its key some seconds later. Save the result, then start anew with it: node ID, addresses and WireGuard key are other
// ones. next must outlive a crash (NextKeys): called again with the same, Rekey gets the same certificate, even when the old one
// is revoked already.
func Rekey(ctx context.Context, m *Membership, next Keys, issuers []*mesh.Member, send Send, now func() time.Time) (*Membership, error) {
	if err := next.check(); err != nil {
		return nil, fmt.Errorf("rekeying: %w", err)
	}
	if next.ID() == m.ID() || next.Public() == m.Public() {
		return nil, errors.New("rekeying: the new keys are the old ones")
	}
	chain, err := m.renewed(ctx, next, issuers, send, now)
	if err != nil {
		return nil, fmt.Errorf("replacing the keys of the offline bundle: %w", err)
	}
	return &Membership{Keys: next, Chain: chain, Root: m.Root, Secret: m.Secret, Items: m.Items}, nil
}

// renewed asks the issuers, with the proof of m's key, for a certificate for keys: the first one, and each next one when the one before has
// refused, or has said nothing for renewStagger. The first certificate counts.
func (m *Membership) renewed(ctx context.Context, keys Keys, issuers []*mesh.Member, send Send, now func() time.Time) ([][]byte, error) {
	root, old, _, err := m.check()
	if err != nil {
		return nil, err
	}
	issuers = slices.DeleteFunc(slices.Clone(issuers), func(is *mesh.Member) bool { return !is.Issuer || is.SealKey == [32]byte{} })
	asking, cancel := context.WithCancel(ctx)
	type answer struct {
		n     int
		chain [][]byte
		err   error
	}
	answers := make(chan answer)
	asked, left := 0, 0
	defer func() { // whoever is still asked sees the cancelled context
		cancel()
		for ; left > 0; left-- {
			<-answers
		}
	}()
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	errs := make([]error, len(issuers))
	for asked < len(issuers) && ctx.Err() == nil || left > 0 {
		select {
		case <-stagger.C:
			if asked == len(issuers) || ctx.Err() != nil {
				continue
			}
			n := asked
			asked, left = asked+1, left+1
			go func() { // renewed waits: one receive for each
				chain, err := m.renewAt(asking, root, old, keys, issuers[n], send, now)
				answers <- answer{n, chain, err}
			}()
			stagger.Reset(renewStagger)
		case a := <-answers:
			left--
			if a.err == nil {
				return a.chain, nil
			}
			errs[a.n] = a.err
			stagger.Reset(0)
		}
	}
	return nil, notRenewed(ctx, old, issuers[:asked], errs, now())
}

// notRenewed puts what the issuers said into one error: a refusal by one of them is that refusal.
func notRenewed(ctx context.Context, old *pki.Leaf, asked []*mesh.Member, errs []error, now time.Time) error {
	var said []string
	var refusal *Error
	for n, is := range asked {
		said = append(said, fmt.Sprintf("%s: %v", is.Name, errs[n]))
		var e *Error
		if errors.As(errs[n], &e) && !e.Hearsay && (refusal == nil || refusal.Code == wire.EnrolError_ENROL_UNREACHABLE) {
			refusal = e
		}
	}
	until := "the certificate is valid until " + stamp(old.NotAfter)
	if now.After(old.NotAfter) {
		until = "the certificate expired on " + stamp(old.NotAfter) + " and can be renewed until " + stamp(old.NotAfter.Add(keepExpired))
	}
	switch {
	case refusal != nil:
		return refusal
	case ctx.Err() != nil:
		return refuse(wire.EnrolError_ENROL_UNREACHABLE, "interrupted (%v); %s. %s", context.Cause(ctx), until, strings.Join(said, "; "))
	case len(said) == 0:
		return refuse(wire.EnrolError_ENROL_UNREACHABLE, "no issuer is known; %s. Start one, or appoint one (gridwire issuer add)", until)
	}
	return refuse(wire.EnrolError_ENROL_UNREACHABLE, "no issuer gave one; %s. %s", until, strings.Join(said, "; "))
}

// renewAt asks one issuer and judges its answer.
func (m *Membership) renewAt(ctx context.Context, root *pki.Root, old *pki.Leaf, keys Keys, is *mesh.Member, send Send,
	now func() time.Time) ([][]byte, error) {
	x, err := newExchange(root.Network.ID, is.ID, is.SealKey, keys, old.Name, func(r *wire.EnrolRequest) {
		r.RenewChain = m.Chain
		r.RenewSignature = ed25519.Sign(m.Identity, renewText(r.GetCsr(), r.GetNonce(), r.GetReplyKey()))
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	resp, err := send(ctx, is.ID, x.frame)
	if err != nil {
		return nil, err
	}
	res, err := x.open(resp)
	if err != nil {
		return nil, err
	}
	got := &Membership{Keys: keys, Chain: res.GetChain(), Root: m.Root}
	_, leaf, by, err := got.check()
	switch {
	case err != nil:
		return nil, fmt.Errorf("its certificate is no good: %w", err)
	case by.NodeID != is.ID:
		return nil, fmt.Errorf("its certificate is signed by %s", by.Name)
	case leaf.Name != old.Name:
		return nil, fmt.Errorf("its certificate is for %s instead of %s", leaf.Name, old.Name)
	}
	if err := leaf.CheckTime(now()); err != nil && !errors.Is(err, pki.ErrNotYetValid) {
		return nil, fmt.Errorf("its certificate is no good: %w", err)
	}
	return got.Chain, nil
}

// maxStrangerWays is how many members SendAsStranger asks besides the issuer.
const maxStrangerWays = 4

// SendAsStranger returns a Send for a node that the others do not accept as a member at the moment: its certificate has expired, or
// was revoked when a rekeying replaced it and the answer got lost. It uses streams of the enrolment protocol, which strangers may
// open: to the issuer itself and, each 100 ms after the one before, to members that strangers can reach, who forward. members are
// those known last. The first sealed answer counts.
func SendAsStranger(open Open, members func() []*mesh.Member) Send {
	return func(ctx context.Context, to mesh.NodeID, f *wire.EnrolFrame) (*wire.EnrolResponse, error) {
		ways := strangerWays(to, members())
		if len(ways) == 0 {
			return nil, errors.New("no address of it, nor of any member that strangers can reach, is known")
		}
		ctx, cancel := context.WithCancel(ctx)
		type answer struct {
			resp *wire.EnrolResponse
			err  error
		}
		answers := make(chan answer)
		left := len(ways)
		defer func() { // whoever is still busy sees the cancelled context
			cancel()
			for ; left > 0; left-- {
				<-answers
			}
		}()
		for n, m := range ways {
			go func() { // the function waits: one receive for each
				if err := sleep(ctx, time.Duration(n)*stagger); err != nil {
					answers <- answer{nil, err}
					return
				}
				resp, err := exchangeFrames(ctx, m.ID, slices.Concat(m.Endpoints, m.LAN), f, open)
				answers <- answer{resp, err}
			}()
		}
		var plainly *wire.EnrolResponse
		var first error
		for left > 0 {
			a := <-answers
			left--
			switch {
			case a.err != nil && first == nil:
				first = a.err
			case a.err == nil && len(a.resp.GetSealedResult()) > 0:
				return a.resp, nil
			case a.err == nil:
				plainly = a.resp
			}
		}
		if plainly != nil {
			return plainly, nil
		}
		return nil, first
	}
}

// strangerWays picks the issuer, then members that strangers can reach, all with an address.
func strangerWays(to mesh.NodeID, members []*mesh.Member) []*mesh.Member {
	var issuer, others []*mesh.Member
	for _, m := range members {
		switch {
		case len(m.Endpoints)+len(m.LAN) == 0:
		case m.ID == to:
			issuer = append(issuer, m)
		case m.Reachable && len(others) < maxStrangerWays:
			others = append(others, m)
		}
	}
	return append(issuer, others...)
}

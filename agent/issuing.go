package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const issuerFile = "issuer"

// issuing makes this node act as an issuer while the directory says that it is one.
type issuing struct {
	n     *node
	cur   atomic.Pointer[enrol.Issuer]
	lists sync.Mutex // serialises the making of revocation lists: two made from the same one would lose an entry
}

// current returns the issuer, or nil.
func (i *issuing) current() *enrol.Issuer { return i.cur.Load() }

// soon is current for who asks in the first moments of a node, before the directory has told what this node is.
func (i *issuing) soon(ctx context.Context) *enrol.Issuer {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		if iss := i.current(); iss != nil {
			return iss
		}
		if me, ok := i.n.dir.View().Me(); ok && !me.Issuer {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return i.current()
		}
	}
}

// run follows the directory: an appointment arrives by gossip, also while this node was off.
func (i *issuing) run(ctx context.Context) error {
	views, cancel := i.n.dir.Watch()
	defer cancel()
	for {
		cert := i.n.myIssuer()
		if cert == nil {
			select {
			case <-views:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := i.serve(ctx, cert, views); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// serve acts as the issuer with this certificate until the directory names another one, or none.
func (i *issuing) serve(ctx context.Context, cert *pki.Issuer, views <-chan *mesh.View) error {
	iss, err := i.open(cert)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var cleanUp sync.WaitGroup
	defer cleanUp.Wait()
	defer cancel()
	cleanUp.Go(func() {
		if err := iss.Run(ctx); err != nil {
			i.n.log.Warn("the issuer's clean-up stopped", "err", err)
		}
	})
	i.cur.Store(iss)
	defer i.cur.Store(nil)
	i.n.log.Info("this node is an issuer", "until", cert.Cert.NotAfter.Format(time.DateOnly))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-views:
		}
		if now := i.n.myIssuer(); now == nil || now.Serial != cert.Serial {
			i.n.log.Info("this node is no issuer by that certificate any more")
			return nil
		}
	}
}

func (i *issuing) open(cert *pki.Issuer) (*enrol.Issuer, error) {
	n := i.n
	m := n.membership.Load()
	back := false
	load := func() ([]byte, error) {
		b, err := n.store.Read(issuerFile)
		for _, name := range n.store.RolledBack() {
			back = back || name == issuerFile
		}
		return b, err
	}
	if _, err := load(); err != nil && back {
		return nil, err
	}
	return enrol.NewIssuer(enrol.IssuerConfig{
		Key: m.Identity, Seal: m.Seal, Root: n.root, Issuer: cert,
		View: n.dir.View, Gone: n.gone, Taken: n.nameTaken, Revoked: n.dir.Revoked,
		Revoke: func(e pki.Revoked) error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return admin{n}.addRevocation(ctx, e)
		},
		Start: n.startItems, Save: func(b []byte) error { return n.store.Write(issuerFile, b) }, Load: load,
		Now: n.dir.Now, Log: n.log.With("part", "issuer"), RolledBack: back, Lifetime: n.cfg.Lifetime,
	})
}

// gone returns who was revoked or has left: their names and addresses are free again.
func (n *node) gone() map[mesh.NodeID]bool {
	out := map[mesh.NodeID]bool{}
	for _, g := range n.dir.Gone() {
		if g.Why == directory.WhyRevoked || g.Why == directory.WhyLeft {
			out[g.ID] = true
		}
	}
	return out
}

// nameTaken reports whether a name is in use, or was until less than 7 days ago by a member whose certificate just ran out.
func (n *node) nameTaken(name mesh.Name) bool {
	if _, ok := n.dir.View().ByName(name); ok {
		return true
	}
	if _, ok := n.dir.View().DeviceByName(name); ok {
		return true
	}
	for _, g := range n.dir.Gone() {
		if g.Name == name && g.Why == directory.WhyExpired {
			return true
		}
	}
	return false
}

// startItems is what a new member begins with: who the issuers are, who is revoked, and where the reachable members are.
func (n *node) startItems() ([]*wire.Item, []byte) {
	var items []*wire.Item
	for _, i := range n.dir.Issuers() {
		items = append(items, &wire.Item{Item: &wire.Item_Issuer{Issuer: i.Cert.Raw}})
	}
	items = append(items, n.dir.RevocationItems()...)
	add := func(id mesh.NodeID) {
		if r, ok := n.dir.Record(id); ok {
			items = append(items, &wire.Item{Item: &wire.Item_Record{Record: r}})
		}
	}
	add(n.membership.Load().ID())
	others := 0
	for m := range n.dir.View().Peers() {
		if m.Reachable && others < 32 {
			others++
			add(m.ID)
		}
	}
	for m := range n.dir.View().Peers() {
		if !m.Reachable && others < 64 {
			others++
			add(m.ID)
		}
	}
	return items, n.membership.Load().Secret
}

// myIssuer returns this node's own issuer certificate, if it is an issuer now.
func (n *node) myIssuer() *pki.Issuer {
	id := n.membership.Load().ID()
	for _, i := range n.dir.Issuers() {
		if i.NodeID == id {
			return i
		}
	}
	return nil
}

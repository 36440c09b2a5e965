package directory

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// cert is what a verified chain says. The parsed X.509 structures are not kept: they would be most of the memory at 5,000 members.
// Immutable; records with the same chain share one.
type cert struct {
	sum          [sha256.Size]byte // of the chain
	id           mesh.NodeID
	name         mesh.Name
	wireGuard    mesh.WGKey
	addrs        []netip.Addr
	block        netip.Prefix
	tags         []string
	routes       []netip.Prefix
	serial       string
	serialNumber []byte
	issuer       *issuer
	issued       time.Time
	notBefore    time.Time
	admitted     time.Time // notBefore of the first of those that were renewed up to this one
	notAfter     time.Time // of the whole chain
}

// issuer is an issuer's certificate. Immutable.
type issuer struct {
	sum [sha256.Size]byte // of the DER
	*pki.Issuer
}

// record is a verified record. Immutable.
type record struct {
	cert      *cert
	signed    *wire.SignedRecord
	hash      [sha256.Size]byte // of the signed bytes
	sequence  uint64
	boot      uint64
	time      time.Time
	tombstone bool
	template  *mesh.Member // all but what depends on other members: name in use, addresses held, issuer or not

	device *mesh.Device // in place of template: it is a device's certificate, see deviceItem
	der    []byte       // in place of signed
}

// outranks says which of two records by one key counts: a tombstone, then the higher sequence, then, for two statements under one
// number, the lower hash. It asks nothing about revocation or time, so that every member that saw both keeps the same.
func (r *record) outranks(other *record) bool {
	switch {
	case r.tombstone != other.tombstone:
		return r.tombstone
	case r.sequence != other.sequence:
		return r.sequence > other.sequence
	}
	return bytes.Compare(r.hash[:], other.hash[:]) < 0
}

// contradicts reports whether r and other cannot be by one machine: two statements under one number, or a later statement by an
// agent that started earlier.
func (r *record) contradicts(other *record) bool {
	if r.sequence == other.sequence {
		return r.hash != other.hash
	}
	return (r.sequence > other.sequence) != (r.boot >= other.boot) && r.boot != other.boot
}

// opener verifies what is submitted. It runs on the submitter's goroutine and reads snapshots only, so that signatures are checked in
// parallel and the owner does none.
type opener struct {
	root *pki.Root
	seen func(mesh.NodeID) *record                   // the record held of this member, or nil
	find func(sum [sha256.Size]byte) (*issuer, bool) // a known issuer certificate
	// signers returns the known certificates with this key, see byKey.
	signers func(mesh.KeyID) []*issuer
}

// record checks everything about s that does not depend on time and on other items: signature, chain up to the root, addresses.
func (o *opener) record(s *wire.SignedRecord) (*record, error) {
	body, key, err := wire.OpenRecord(s)
	if err != nil {
		return nil, err
	}
	id := mesh.NodeIDOf(key)
	held := o.seen(id)
	c, err := o.cert(body.GetChain(), held)
	if err != nil {
		return nil, fmt.Errorf("record of node %s: %w", id.Short(), err)
	}
	if c.id != id {
		return nil, fmt.Errorf("record of node %s: its certificate is for node %s", id.Short(), c.id.Short())
	}
	r := &record{
		cert: c, signed: s, hash: sha256.Sum256(s.GetRecord()), sequence: body.GetSequence(), boot: body.GetBoot(),
		time: time.UnixMilli(body.GetTime()).UTC(), tombstone: body.GetTombstone(),
	}
	r.template = c.member(body, r.time)
	return r, nil
}

// cert verifies a chain, or finds that held carries the same one already.
func (o *opener) cert(chain [][]byte, held *record) (*cert, error) {
	sum := chainSum(chain)
	if held != nil && held.cert.sum == sum {
		return held.cert, nil
	}
	leaf, iss, err := o.verify(chain)
	if err != nil {
		return nil, err
	}
	if posesAs(leaf.Name, leaf.ID) {
		return nil, fmt.Errorf("the name %s is reserved for another node: issue a certificate with another name", leaf.Name)
	}
	return &cert{
		sum: sum, id: leaf.ID, name: leaf.Name, wireGuard: leaf.WireGuard, addrs: leaf.Addrs,
		block: mesh.Block(o.root.Network.ID, leaf.ID), tags: leaf.Tags, routes: leaf.Routes,
		serial: leaf.Serial, serialNumber: leaf.Cert.SerialNumber.Bytes(), issuer: iss,
		issued: leaf.Issued, notBefore: leaf.Cert.NotBefore, admitted: leaf.Admitted, notAfter: leaf.NotAfter,
	}, nil
}

// verify checks a chain of leaf and issuer at any time.
func (o *opener) verify(chain [][]byte) (*pki.Leaf, *issuer, error) {
	if len(chain) == 2 {
		if iss, ok := o.find(sha256.Sum256(chain[1])); ok {
			leaf, err := iss.VerifyAtAnyTime(chain[0], o.root)
			return leaf, iss, err
		}
	}
	leaf, i, err := pki.VerifyAtAnyTime(chain, o.root)
	if err != nil {
		return nil, nil, err
	}
	return leaf, newIssuer(i), nil
}

func newIssuer(i *pki.Issuer) *issuer { return &issuer{sum: sha256.Sum256(i.Cert.Raw), Issuer: i} }

func chainSum(chain [][]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, der := range chain { // each DER says its own length
		h.Write(der)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// member returns the part of the View's member that the record alone decides.
func (c *cert) member(r *wire.Record, signed time.Time) *mesh.Member {
	m := &mesh.Member{
		ID: c.id, CertName: c.name, WireGuard: c.wireGuard, Block: c.block, Tags: c.tags, Routes: c.routes,
		Serial: c.serial, IssuerID: c.issuer.KeyID, NotBefore: c.notBefore, NotAfter: c.notAfter,
		Seq: r.GetSequence(), Boot: r.GetBoot(), Updated: signed, Reachable: r.GetReachable(),
		Endpoints: addrPorts(r.GetEndpoints()), LAN: addrPorts(r.GetLan()), NAT: r.GetNat(), Software: r.GetSoftware(),
		Workloads: c.workloads(r), Gateway: r.GetGateway(),
	}
	copy(m.SealKey[:], r.GetSealKey())
	for _, key := range r.GetDevices() { // wire.OpenRecord has checked their length
		m.Connected = append(m.Connected, mesh.WGKey(key))
	}
	for _, b := range r.GetVia() {
		if id, err := mesh.NodeIDFromBytes(b); err == nil {
			m.Via = append(m.Via, id)
		}
	}
	return m
}

// workloads returns what the record names, without what its certificate does not bear out: nobody claims an address of another member's,
// or one of a network that no issuer gave it.
func (c *cert) workloads(r *wire.Record) []mesh.Workload {
	all, err := wire.ParseWorkloads(r.GetWorkloads())
	if err != nil {
		return nil // wire.OpenRecord has checked them
	}
	return slices.DeleteFunc(all, func(w mesh.Workload) bool {
		return slices.ContainsFunc(w.Addrs, func(a netip.Addr) bool { return !mesh.MayAddress(c.block, c.routes, a) })
	})
}

// addrPorts decodes addresses that wire.OpenRecord has checked.
func addrPorts(bs [][]byte) []netip.AddrPort {
	if len(bs) == 0 {
		return nil
	}
	out, err := wire.ParseAddrPorts(bs)
	if err != nil {
		return nil
	}
	return out
}

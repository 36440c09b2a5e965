package usage

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Findings are what a report proves.
type Findings struct {
	Network mesh.Network
	Node    mesh.Name // by its certificate, as are the peers' names
	Links   []Finding
	// Claims are what the node says beyond its statements, for comparison.
	Claims map[mesh.NodeID]ReportRow
}

// Finding is about one link.
type Finding struct {
	Peer mesh.NodeID
	Name mesh.Name // empty: the peer has signed nothing
	// Sent and Received are the node's own counters of the hours that the peer bears out.
	Sent, Received uint64
	Hours          map[State]int
	Disputes       []Dispute // hours that diverge
	Gaps           int       // hours in which one of the two says that it did not count all
}

// Dispute is an hour in which one of the two counters is wrong.
type Dispute struct {
	From time.Time
	Why  string
}

// Diverging counts the hours in which one of the ends does not tell the truth.
func (f *Findings) Diverging() int {
	n := 0
	for _, l := range f.Links {
		n += l.Hours[Diverging]
	}
	return n
}

// Verify checks a report with nothing but what is in it: every signature, that the signers' certificates lead to the network's root and were
// valid, and that the two ends bear each other out. Any forged or misplaced part makes the whole report an error. It does not know who was
// revoked, nor whether the two ends lie together, nor whether the node left hours out that speak against it. Compare Findings.Network.ID with
// the network that you know: anybody can make a root.
func Verify(data []byte) (*Findings, error) {
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("the report is not what `gridwire usage --json` prints: %w", err)
	}
	if r.Version != ReportVersion {
		return nil, fmt.Errorf("the report has version %d, this program knows %d", r.Version, ReportVersion)
	}
	root, err := pki.ParseRoot(r.Network.Root)
	if err != nil {
		return nil, fmt.Errorf("the report's root certificate: %w", err)
	}
	v := verifier{root: root, chains: map[mesh.NodeID][]*pki.Leaf{}}
	if v.node, err = mesh.ParseNodeID(r.Node.ID); err != nil {
		return nil, fmt.Errorf("the report's node: %w", err)
	}
	if err := v.readChains(r.Chains); err != nil {
		return nil, err
	}
	f := &Findings{Network: root.Network, Claims: map[mesh.NodeID]ReportRow{}}
	for _, p := range r.Peers {
		if id, err := mesh.ParseNodeID(p.ID); err == nil {
			f.Claims[id] = p
		}
	}
	links, err := v.readHours(r.Hours)
	if err != nil {
		return nil, err
	}
	for id, pairs := range links {
		f.Links = append(f.Links, v.link(id, pairs))
	}
	slices.SortFunc(f.Links, func(a, b Finding) int { return a.Peer.Compare(b.Peer) })
	if leaves := v.chains[v.node]; len(leaves) > 0 {
		f.Node = leaves[len(leaves)-1].Name
	}
	return f, nil
}

type verifier struct {
	root   *pki.Root
	node   mesh.NodeID
	chains map[mesh.NodeID][]*pki.Leaf
}

func (v *verifier) readChains(chains []ReportChain) error {
	for _, c := range chains {
		leaf, _, err := pki.VerifyAtAnyTime(c.Chain, v.root)
		if err != nil {
			return fmt.Errorf("the certificates of node %s: %w", c.ID.Short(), err)
		}
		if leaf.ID != c.ID {
			return fmt.Errorf("the certificates given for node %s are those of node %s", c.ID.Short(), leaf.ID.Short())
		}
		v.chains[c.ID] = append(v.chains[c.ID], leaf)
	}
	return nil
}

func (v *verifier) readHours(hours []ReportHour) (map[mesh.NodeID][]Pair, error) {
	links := map[mesh.NodeID][]Pair{}
	seen := map[string]bool{}
	for _, h := range hours {
		key := fmt.Sprint(h.Peer, h.From.Unix())
		if seen[key] {
			return nil, fmt.Errorf("the hour from %v with node %s is in the report twice", h.From.UTC(), h.Peer.Short())
		}
		seen[key] = true
		if h.Ours == nil {
			return nil, fmt.Errorf("the hour from %v with node %s has no statement of the node whose report it is", h.From.UTC(), h.Peer.Short())
		}
		ours, err := v.statement(h.Ours, v.node, h.Peer, h.From)
		if err != nil {
			return nil, err
		}
		p := Pair{From: h.From.UTC(), Ours: ours}
		if h.Theirs != nil {
			theirs, err := v.statement(h.Theirs, h.Peer, v.node, h.From)
			if err != nil {
				return nil, err
			}
			p.Theirs = &theirs
		}
		links[h.Peer] = append(links[h.Peer], p)
	}
	for _, pairs := range links {
		slices.SortFunc(pairs, func(a, b Pair) int { return a.From.Compare(b.From) })
	}
	return links, nil
}

// statement checks that s is by one node about another, about this hour, in this network, by a member of that time.
func (v *verifier) statement(s *Signed, by, about mesh.NodeID, from time.Time) (Side, error) {
	where := fmt.Sprintf("the statement of node %s about the hour from %s", by.Short(), from.UTC().Format(time.RFC3339))
	u, err := wire.VerifyUsage(&wire.SignedUsage{Statement: s.Statement, Signature: s.Signature})
	if err != nil {
		return Side{}, fmt.Errorf("%s: %w", where, err)
	}
	to := time.UnixMilli(u.To)
	switch {
	case mesh.NodeID(u.By) != by || mesh.NodeID(u.About) != about:
		return Side{}, fmt.Errorf("%s is another's, or about another", where)
	case mesh.NetworkID(u.Network) != v.root.Network.ID:
		return Side{}, fmt.Errorf("%s is about another network", where)
	case u.From != from.UnixMilli() || to.Sub(from) != Period || u.From%Period.Milliseconds() != 0:
		return Side{}, fmt.Errorf("%s is about another time: %v to %v", where, time.UnixMilli(u.From).UTC(), to.UTC())
	}
	valid := func(l *pki.Leaf) bool { return l.NotBefore.Before(to) && l.NotAfter.After(from) }
	if !slices.ContainsFunc(v.chains[by], valid) {
		if len(v.chains[by]) == 0 {
			return Side{}, fmt.Errorf("%s: there is no certificate for that node in the report", where)
		}
		return Side{}, fmt.Errorf("%s: no certificate in the report shows that the node was a member then", where)
	}
	return (&signed{UsageStatement: u}).side(), nil
}

func (v *verifier) link(id mesh.NodeID, pairs []Pair) Finding {
	f := Finding{Peer: id, Hours: map[State]int{}}
	if leaves := v.chains[id]; len(leaves) > 0 {
		f.Name = leaves[len(leaves)-1].Name
	}
	for i, verdict := range Judge(pairs) {
		p := pairs[i]
		f.Hours[verdict.State]++
		if p.Ours.Gap || p.Theirs != nil && p.Theirs.Gap {
			f.Gaps++
		}
		switch verdict.State {
		case Agreed:
			f.Sent, f.Received = f.Sent+p.Ours.Sent, f.Received+p.Ours.Received
		case Diverging:
			f.Disputes = append(f.Disputes, Dispute{p.From, strings.NewReplacer("we ", "the reporting node ").Replace(verdict.Why)})
		}
	}
	return f
}

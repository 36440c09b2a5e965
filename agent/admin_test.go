package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestWhereToAsk(t *testing.T) {
	at := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	const (
		own, public, dialled = "192.168.2.2:51820", "198.51.100.10:51820", "198.51.100.11:51820"
	)
	reachable := &mesh.Member{ID: mesh.NodeID{1}, Reachable: true, Endpoints: at(public)}
	unknown := &mesh.Member{ID: mesh.NodeID{2}, Endpoints: at(public)} // has published nothing of being reachable
	for name, c := range map[string]struct {
		peers []*mesh.Member
		conns []control.Connection
		want  map[byte]string
	}{
		"alone":                   {nil, nil, nil},
		"a reachable member":      {[]*mesh.Member{reachable, unknown}, nil, map[byte]string{1: public}},
		"one that has dialled us": {[]*mesh.Member{unknown}, []control.Connection{{ID: unknown.ID, Remote: at(dialled)[0], Inbound: true}}, nil},
		"one that we dialled":     {[]*mesh.Member{unknown}, []control.Connection{{ID: unknown.ID, Remote: at(dialled)[0]}}, map[byte]string{2: dialled}},
		"reachable and dialled":   {[]*mesh.Member{reachable}, []control.Connection{{ID: reachable.ID, Remote: at(dialled)[0]}}, map[byte]string{1: public}},
		"both kinds": {[]*mesh.Member{unknown, reachable}, []control.Connection{{ID: unknown.ID, Remote: at(dialled)[0]}},
			map[byte]string{1: public, 2: dialled}},
	} {
		got := whereToAsk(mesh.NodeID{9}, at(own), slices.Values(c.peers), c.conns)
		if len(got) != 1+len(c.want) || got[0].NodeId[0] != 9 {
			t.Errorf("%s: %v", name, got)
			continue
		}
		for _, m := range got[1:] {
			if a, err := wire.ParseAddrPort(m.Addresses[0]); err != nil || a.String() != c.want[m.NodeId[0]] {
				t.Errorf("%s: %d at %v (%v), want %s", name, m.NodeId[0], a, err, c.want[m.NodeId[0]])
			}
		}
	}
	many := make([]control.Connection, 10)
	for i := range many {
		many[i] = control.Connection{ID: mesh.NodeID{byte(i)}, Remote: at(dialled)[0]}
	}
	if got := whereToAsk(mesh.NodeID{99}, at(own), slices.Values[[]*mesh.Member](nil), many); len(got) != 4 {
		t.Errorf("%d members in a token", len(got))
	}
}

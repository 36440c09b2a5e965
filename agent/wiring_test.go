package agent

import (
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
)

func TestNewWaysToMembers(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	conn := func(id byte, since int) control.Connection {
		return control.Connection{ID: mesh.NodeID{id}, Proven: true, Since: start.Add(time.Duration(since) * time.Second)}
	}
	w := waysToMembers{}
	for i, step := range []struct {
		conns       []control.Connection
		way, member bool
	}{
		{nil, false, false},
		{[]control.Connection{conn(1, 0)}, true, true},
		{[]control.Connection{conn(1, 0)}, false, false},
		{[]control.Connection{conn(1, 0), conn(2, 1)}, true, true},
		{[]control.Connection{conn(2, 1)}, false, false},
		{[]control.Connection{conn(2, 5)}, true, false},            // another one to the same member
		{[]control.Connection{conn(1, 6)}, true, true},             // one came, one went
		{[]control.Connection{{ID: mesh.NodeID{3}}}, false, false}, // not proven
		{[]control.Connection{conn(1, 6)}, true, true},             // it was away
		{[]control.Connection{conn(1, 6), conn(3, 7)}, true, true},
	} {
		if way, member := w.newIn(step.conns); way != step.way || member != step.member {
			t.Errorf("step %d: way %v, member %v; want %v, %v", i, way, member, step.way, step.member)
		}
	}
}

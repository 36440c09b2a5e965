package agent

import (
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/store"
)

// founded makes a network in a folder of its own.
func founded(t *testing.T) (*store.Store, *pki.Root) {
	t.Helper()
	dir := t.TempDir() + "/state"
	if _, err := Init(InitRequest{State: dir, Network: "farm", Node: "alice"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	m, err := enrol.Load(st)
	if err != nil {
		t.Fatal(err)
	}
	root, _, _, err := m.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	return st, root
}

func TestRootKeyIsReadBackAndBelongsToItsNetwork(t *testing.T) {
	st, root := founded(t)
	if _, err := readRootKey(st, root); err != nil {
		t.Error(err)
	}
	_, other := founded(t)
	if _, err := readRootKey(st, other); err == nil {
		t.Error("the root key of another network was taken for this one's")
	}
}

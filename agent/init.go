package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/store"
)

// InitRequest is what `gridwire init` was asked for.
type InitRequest struct {
	State   string
	Network mesh.Name
	Node    mesh.Name
	Domain  string
	IPv4    netip.Prefix // invalid: by the network's hash
	NoIPv4  bool
}

// InitResult is what it made.
type InitResult struct {
	Network mesh.Network
	Name    mesh.Name
	Addrs   []netip.Addr
	Expires time.Time // of the first certificate
	RootKey string    // path
}

// Init founds a network in the state folder. It refuses a folder that holds a membership.
func Init(req InitRequest, now time.Time) (*InitResult, error) {
	st, err := store.Open(req.State)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	switch m, err := enrol.Load(st); {
	case err == nil:
		_, leaf, _, err := m.Leaf()
		if err != nil {
			return nil, fmt.Errorf("%s holds a membership that cannot be read: %w", req.State, err)
		}
		return nil, fmt.Errorf("this machine is %s already (state in %s); leave that network first with `gridwire leave`, or use another --state folder",
			leaf.Cert.Subject.CommonName, req.State)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	pool := req.IPv4
	if req.NoIPv4 {
		pool = pki.NoIPv4()
	}
	m, rootKey, _, err := enrol.NewNetwork(req.Network, req.Node, req.Domain, pool, now)
	if err != nil {
		return nil, err
	}
	if err := enrol.SaveRootKey(st, rootKey); err != nil {
		return nil, err
	}
	if err := enrol.Save(st, m); err != nil {
		return nil, err
	}
	root, leaf, _, err := m.Leaf()
	if err != nil {
		return nil, err
	}
	return &InitResult{
		Network: root.Network, Name: leaf.Name, Addrs: leaf.Addrs, Expires: leaf.Cert.NotAfter,
		RootKey: filepath.Join(req.State, enrol.FileRootKey),
	}, nil
}

// readRootKey returns the root's key, or an error that says where it should be.
func readRootKey(st *store.Store, root *pki.Root) (pki.Key, error) {
	key, err := enrol.LoadRootKey(st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the root key is not on this machine: bring it back to %s, from where you keep it offline, for as long as this takes, on a member that runs",
			filepath.Join(st.Dir(), enrol.FileRootKey))
	}
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(root.Cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the root key of this network", filepath.Join(st.Dir(), enrol.FileRootKey))
	}
	return key, nil
}

// HostName returns this machine's name as a member's name, or nothing if it cannot be one.
func HostName() mesh.Name {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return enrol.WishFrom(h)
}

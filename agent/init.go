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

// CheckPool says why an IPv4 pool cannot be a network's.
func CheckPool(pool netip.Prefix) error { return pki.CheckPool(pool) }

// Init founds a network in the state folder. It refuses a folder that holds a membership.
func Init(req InitRequest, now time.Time) (*InitResult, error) {
	st, err := openToFound(req.State)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	if err := mayFound(st); err != nil {
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

// openToFound opens the state folder. An agent that waits for init looks into the folder twice a second, and holds it meanwhile.
func openToFound(dir string) (*store.Store, error) {
	for tries := 0; ; tries++ {
		st, err := store.Open(dir)
		if err == nil || !errors.Is(err, store.ErrLocked) {
			return st, err
		}
		if tries < 20 {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if shared, serr := store.OpenShared(dir); serr == nil { // a node runs: say which
			if ferr := mayFound(shared); ferr != nil {
				return nil, ferr
			}
		}
		return nil, err
	}
}

// mayFound refuses a state folder that holds a membership, or the root key of a network that was founded in it: to write another one over
// it would end that network.
func mayFound(st *store.Store) error {
	switch m, err := enrol.Load(st); {
	case err == nil:
		root, leaf, _, err := m.Leaf()
		if err != nil {
			return fmt.Errorf("%s holds a membership that cannot be read: %w", st.Dir(), err)
		}
		return refusef("this machine is %s in %s already (state in %s); leave that network first with `gridwire leave`, or use another --state folder",
			leaf.Name, root.Network.Name, st.Dir())
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := enrol.LoadRootKey(st); !errors.Is(err, fs.ErrNotExist) {
		return refusef("%s is the root key of a network that was founded here before, and a new network would overwrite it: move it to a safe place first",
			filepath.Join(st.Dir(), enrol.FileRootKey))
	}
	return nil
}

// errNoRootKey is how things should be, most of the time.
var errNoRootKey = errors.New("the root key is not on this machine")

// readRootKey returns the root's key, or an error that says where it should be; it wraps errNoRootKey where there is none.
func readRootKey(st *store.Store, root *pki.Root) (pki.Key, error) {
	key, err := enrol.LoadRootKey(st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: bring it back to %s, from where you keep it offline, for as long as this takes, on a member that runs",
			errNoRootKey, filepath.Join(st.Dir(), enrol.FileRootKey))
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

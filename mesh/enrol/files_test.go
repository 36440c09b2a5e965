package enrol

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/store"
)

func same(a, b *Membership) bool {
	return a.ID() == b.ID() && a.WireGuard == b.WireGuard && a.Seal.Equal(b.Seal) && bytes.Equal(a.Chain[0], b.Chain[0]) &&
		bytes.Equal(a.Root, b.Root) && bytes.Equal(a.Secret, b.Secret) && a.Bundle == b.Bundle && len(a.Items) == len(b.Items)
}

func TestSaveLoad(t *testing.T) {
	w := newWorld(t)
	files := newMemFiles()
	if _, err := Load(files); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	w.must(Save(files, w.alice))
	got, err := Load(files)
	w.must(err)
	if !same(got, w.alice) {
		t.Error("another membership came back")
	}
	files.left = 0 // saving the same again writes nothing
	w.must(Save(files, w.alice))
	files.left = 1 // a renewal writes one file
	i := w.issuer(&disk{})
	renewed := *w.alice
	renewed.Chain = [][]byte{nil, w.alice.Chain[1]}
	if err := Save(files, &renewed); err == nil {
		t.Error("a membership without a certificate was saved")
	}
	w.clock.advance(1e9 * 3600)
	renewed.Chain, err = Renew(t.Context(), w.alice, asList(w.member(w.alice)), sendTo(i), w.clock.now)
	w.must(err)
	w.must(Save(files, &renewed))

	w.must(SaveRootKey(newMemFiles(), w.rootKey))
	files.left = -1
	w.must(SaveRootKey(files, w.rootKey))
	key, err := LoadRootKey(files)
	if err != nil || !key.Equal(w.rootKey) {
		t.Errorf("the root key came back differently: %v", err)
	}
	if _, err := LoadRootKey(newMemFiles()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no root key: %v", err)
	}
}

func asList[T any](v ...T) []T { return v }

// A machine that stops at any step of a Save that replaces everything has the old membership or the new one.
func TestSaveStoppedAnywhere(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	old, err := JoinOffline(w.invite(i, InviteRequest{Name: "laptop", Offline: true}), w.clock.now())
	w.must(err)
	next := w.joined(i, w.invite(i, InviteRequest{}), "other")
	start := newMemFiles()
	w.must(Save(start, old))
	for stop := 0; ; stop++ {
		files := start.clone()
		files.left = stop
		err := Save(files, next)
		files.left = -1
		got, lerr := Load(files)
		if lerr != nil {
			t.Fatalf("stopped at step %d: %v", stop, lerr)
		}
		if !same(got, old) && !same(got, next) {
			t.Fatalf("stopped at step %d: a mixture", stop)
		}
		if err == nil {
			if !same(got, next) || stop < 5 {
				t.Fatalf("saved in %d steps", stop)
			}
			break
		}
		if !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
	}
	// And from nothing: no member yet, or the new one; EnsureKeys never gives keys of one that is lost.
	for stop := 0; ; stop++ {
		files := newMemFiles()
		files.left = stop
		err := Save(files, next)
		files.left = -1
		got, lerr := Load(files)
		if lerr == nil && !same(got, next) || lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
			t.Fatalf("stopped at step %d: %v", stop, lerr)
		}
		if err == nil {
			break
		}
	}
}

func TestEnsureKeys(t *testing.T) {
	for stop := 0; stop < 5; stop++ {
		files := newMemFiles()
		files.left = stop
		first, err := EnsureKeys(files)
		files.left = -1
		second, err2 := EnsureKeys(files)
		if err2 != nil {
			t.Fatalf("stopped at step %d: %v", stop, err2)
		}
		if err == nil && first.ID() != second.ID() {
			t.Error("other keys at the second try")
		}
	}
	w := newWorld(t)
	files := newMemFiles()
	w.must(Save(files, w.alice))
	delete(files.files, FileIdentity)
	if _, err := EnsureKeys(files); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Errorf("fresh keys for a member that lost its own: %v", err)
	}
}

// Damaged and mixed files are refused with the name of the file.
func TestLoadRefuses(t *testing.T) {
	w, other := newWorld(t), newNamedWorld(t, "farm")
	whole, foreign := newMemFiles(), newMemFiles()
	w.must(Save(whole, w.alice))
	w.must(Save(foreign, other.alice))
	for _, name := range []string{FileIdentity, FileWireGuard, FileSeal, FileChain, FileRoot, FileSecret} {
		for what, data := range map[string][]byte{"empty": {}, "zeros": make([]byte, 100), "half": whole.files[name][:len(whole.files[name])/2]} {
			files := whole.clone()
			files.files[name] = data
			if name == FileSecret && what == "half" {
				continue // half a secret is a secret; the store's checksum notices
			}
			if _, err := Load(files); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
		if name == FileSeal || name == FileSecret {
			continue // nothing ties them to the rest
		}
		files := whole.clone()
		files.files[name] = foreign.files[name]
		if _, err := Load(files); err == nil {
			t.Errorf("%s of another member: loaded", name)
		}
	}
	files := whole.clone()
	files.files[fileNext] = []byte("rubbish")
	if _, err := Load(files); err == nil || !strings.Contains(err.Error(), fileNext) {
		t.Errorf("%v", err)
	}
}

// Ordinary tools read the files.
func TestFilesForOpenssl(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	w := newWorld(t)
	files := newMemFiles()
	w.must(Save(files, w.alice))
	dir := t.TempDir()
	for name, args := range map[string][]string{
		FileIdentity: {"pkey", "-noout", "-text"}, FileSeal: {"pkey", "-noout", "-text"},
		FileChain: {"x509", "-noout", "-text"}, FileRoot: {"x509", "-noout", "-text"},
	} {
		path := filepath.Join(dir, name)
		w.must(os.WriteFile(path, files.files[name], 0o600))
		out, err := exec.Command(openssl, append(args, "-in", path)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestNewNetwork(t *testing.T) {
	m, rootKey, issuerCert, err := NewNetwork("farm", "alice", "grid.example", netip.MustParsePrefix("10.99.0.0/16"), day0)
	if err != nil {
		t.Fatal(err)
	}
	root, leaf, issuer, err := m.check()
	if err != nil {
		t.Fatal(err)
	}
	if root.Network.Domain != "grid.example" || leaf.Addrs[1] != netip.MustParseAddr("10.99.0.1") || issuer.Index != 0 ||
		!bytes.Equal(issuerCert, m.Chain[1]) || len(rootKey) != 64 || len(m.Secret) != 32 {
		t.Errorf("%+v %+v", root.Network, leaf)
	}
	for _, bad := range []struct{ name, node, domain, pool string }{
		{"f_m", "alice", "", "10.0.0.0/16"}, {"farm", "", "", "10.0.0.0/16"}, {"farm", "a", "x..y", "10.0.0.0/16"}, {"farm", "a", "", "8.0.0.0/16"},
	} {
		if _, _, _, err := NewNetwork(mesh.Name(bad.name), mesh.Name(bad.node), bad.domain, netip.MustParsePrefix(bad.pool), day0); err == nil {
			t.Errorf("%+v: founded", bad)
		}
	}
}

// The real store: what is saved is there after it is opened again, and rekeying leaves no journal.
func TestStore(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	dir := filepath.Join(t.TempDir(), "state")
	open := func() *store.Store {
		st, err := store.Open(dir)
		w.must(err)
		return st
	}
	st := open()
	bundle, err := JoinOffline(w.invite(i, InviteRequest{Name: "laptop", Offline: true}), w.clock.now())
	w.must(err)
	w.must(Save(st, bundle))
	next, err := NextKeys(st)
	w.must(err)
	fresh, err := Rekey(t.Context(), bundle, next, asList(w.member(w.alice)), sendTo(i), w.clock.now)
	w.must(err)
	w.must(Save(st, fresh))
	w.must(st.Close())
	st = open()
	got, err := Load(st)
	w.must(err)
	if !same(got, fresh) {
		t.Error("another membership came back")
	}
	w.must(st.Close())
	for _, name := range []string{fileNext, fileKeys, FileBundle} {
		if left, _ := filepath.Glob(filepath.Join(dir, name+"*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	// An identity of another generation than the certificate.
	prev, err := os.ReadFile(filepath.Join(dir, FileIdentity+".prev"))
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, FileIdentity), prev, 0o600))
	st = open()
	defer st.Close()
	if _, err := Load(st); err == nil || !strings.Contains(err.Error(), "one generation") {
		t.Errorf("the bundle's key beside the new certificate: %v", err)
	}
}

func TestAppoint(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(&disk{})
	_, _, first, err := w.alice.Leaf()
	w.must(err)
	zoe := w.enter(w.joined(i, w.invite(i, InviteRequest{Name: "zoe"}), ""), false)
	empty := mesh.NewView(w.root.Network, zoe.ID)
	der, err := Appoint(w.root, w.rootKey, zoe, asList(first), empty, w.clock.now())
	w.must(err)
	second, err := pki.ParseIssuer(der, w.root)
	w.must(err)
	if second.Index != 1 || second.NodeID != zoe.ID || second.Name != "zoe" {
		t.Errorf("%+v", second)
	}
	if _, err := Appoint(w.root, w.rootKey, zoe, asList(first, second), empty, w.clock.now()); err == nil {
		t.Error("appointed twice")
	}
	der, err = Appoint(w.root, w.rootKey, zoe, asList(first, second), empty, second.Cert.NotAfter.AddDate(0, -6, 0))
	w.must(err)
	if again, err := pki.ParseIssuer(der, w.root); err != nil || again.Index != 1 {
		t.Errorf("appointed again: %+v, %v", again, err)
	}
	part := mesh.IssuerIPv4(w.root.Network.IPv4, 1)
	held := empty.With(&mesh.Member{ID: mesh.NodeID{9}, Name: "heir", Addrs: []netip.Addr{part.Addr().Next()}})
	der, err = Appoint(w.root, w.rootKey, zoe, asList(first), held, w.clock.now())
	w.must(err)
	if third, err := pki.ParseIssuer(der, w.root); err != nil || third.Index != 2 {
		t.Errorf("a dismissed issuer's part of the pool is in use, and was given away: %+v, %v", third, err)
	}
	all := asList(first)
	for n := 1; n < mesh.IssuerIPv4Count(w.root.Network.IPv4); n++ {
		all = append(all, &pki.Issuer{Index: n, Cert: first.Cert})
	}
	if _, err := Appoint(w.root, w.rootKey, zoe, all, empty, w.clock.now()); err == nil {
		t.Error("a 17th issuer was appointed")
	}
}

func TestWishFrom(t *testing.T) {
	for host, want := range map[string]mesh.Name{
		"Bobs-MacBook.local": "bobs-macbook", "farm_07": "farm-07", "": "", "...": "", "--": "", "über": "ber",
		strings.Repeat("a", 80): mesh.Name(strings.Repeat("a", 63)),
	} {
		if got := WishFrom(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLocked(t *testing.T) {
	dir := stateDir(t)
	s := open(t, dir)
	_, err := Open(dir)
	wantError(t, err, ErrLocked, fmt.Sprintf("process %d", os.Getpid()))
	put(t, s, "state", "one")

	shared, err := OpenShared(dir)
	if err != nil {
		t.Fatal(err)
	}
	wantRead(t, shared, "state", "one")
	wantError(t, shared.Write("state", nil), ErrShared, "state")
	wantError(t, shared.WriteCache("state", nil), ErrShared, "state")
	wantError(t, shared.Remove("state"), ErrShared, "state")
	wantError(t, shared.Wipe(), ErrShared, "reading only")
	if err := shared.Close(); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantRead(t, open(t, dir), "state", "one")
	_, err = OpenShared(filepath.Join(dir, "none"))
	wantError(t, err, fs.ErrNotExist, "state folder")
	_, err = OpenShared(filepath.Join(dir, "state"))
	wantError(t, err, nil, "is not a folder")
}

// Root that writes into the folder of the agent's user leaves files that this user can read.
func TestRootWritesForTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const uid, gid = 12345, 12346
	dir := stateDir(t)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	put(t, s, "state", "one")
	put(t, s, "state", "two")
	if err := s.WriteCache("cache", []byte("three")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // state, state.prev, cache, lock
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != uid || owner.Gid != gid || info.Mode().Perm() != 0o600 {
			t.Errorf("%s belongs to %d:%d with mode %o", e.Name(), owner.Uid, owner.Gid, info.Mode().Perm())
		}
	}
}

func TestWideModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's state")
	s := open(t, dir)
	put(t, s, "identity.key", "one")
	put(t, s, "identity.key", "two")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	chmod := func(name string, mode fs.FileMode) {
		t.Helper()
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []fs.FileMode{0o755, 0o710, 0o701, 0o770} {
		chmod(".", mode)
		for _, open := range []func(string) (*Store, error){Open, OpenShared} {
			_, err := open(dir)
			wantError(t, err, nil, "run `chmod 700 '"+strings.ReplaceAll(dir, "'", `'\''`)+"'`")
		}
	}
	chmod(".", 0o700)
	for _, name := range []string{"identity.key", "identity.key.prev"} {
		chmod(name, 0o640)
		_, err := Open(dir)
		wantError(t, err, nil, "chmod 600")
		chmod(name, 0o600)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.log"), []byte("none of ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	chmod("identity.key", 0o604)
	_, err := s.Read("identity.key") // no reason to go back a generation
	wantError(t, err, nil, "chmod 600")
	if len(s.RolledBack()) > 0 {
		t.Error("went back for a mode")
	}
	wantError(t, s.Write("identity.key", []byte("three")), nil, "chmod 600")
}

func TestNotARegularFile(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "real", "one")
	if err := os.Symlink(filepath.Join(s.dir, "real"), filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read("link")
	wantError(t, err, nil, "symbolic link")
	wantError(t, s.Write("link", nil), nil, "symbolic link")
	if err := os.Mkdir(filepath.Join(s.dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read("folder")
	wantError(t, err, nil, "not a regular file")
}

func TestNames(t *testing.T) {
	s := open(t, stateDir(t))
	for _, name := range []string{"", "lock", ".hidden", "-x", "a/b", "../up", "A", "a b", "x.prev", "x.tmp", "x\x00", strings.Repeat("a", 65)} {
		wantError(t, s.Write(name, nil), nil, "a name has")
		_, err := s.Read(name)
		wantError(t, err, nil, "a name has")
	}
	for _, name := range []string{"a", "identity.key", "last-good.json", "0", strings.Repeat("a", 64)} {
		put(t, s, name, name)
		wantRead(t, s, name, name)
	}
}

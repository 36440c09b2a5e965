package store

import (
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// stateDir returns a folder that does not exist yet: t.TempDir's own may be entered by others.
func stateDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "state")
}

func put(t testing.TB, s *Store, name, data string) {
	t.Helper()
	if err := s.Write(name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t testing.TB, s *Store, name, want string) {
	t.Helper()
	got, err := s.Read(name)
	if err != nil || string(got) != want {
		t.Fatalf("%s reads as %q (%v), want %q", name, got, err, want)
	}
}

func wantError(t testing.TB, err, target error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("error %v, want one about %q", err, words)
	}
	if target != nil && !errors.Is(err, target) {
		t.Fatalf("error %v is not %v", err, target)
	}
}

// overwrite changes a file behind the store's back.
func overwrite(t testing.TB, s *Store, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, s *Store, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func list(t testing.TB, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestGenerations(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	s := open(t, dir)
	_, err := s.Read("invitations")
	wantError(t, err, fs.ErrNotExist, "invitations")
	for _, data := range []string{"one", "", "two\n", "\x00\x00", "three"} {
		put(t, s, "invitations", data)
		wantRead(t, s, "invitations", data)
	}
	put(t, s, "invitations", "three") // no change: does not push out the previous generation
	if got, err := decode(content(t, s, "invitations.prev")); err != nil || string(got) != "\x00\x00" {
		t.Errorf("previous generation %q (%v)", got, err)
	}
	if names := list(t, s); !slices.Equal(names, []string{"invitations", "invitations.prev", "lock"}) {
		t.Errorf("the folder has %v", names)
	}
	for name, want := range map[string]fs.FileMode{".": 0o700, "invitations": 0o600, "invitations.prev": 0o600, "lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
	if names := s.RolledBack(); len(names) > 0 {
		t.Errorf("%v went back", names)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Write("invitations", nil), fs.ErrClosed, "invitations")
	wantRead(t, open(t, dir), "invitations", "three")
}

// forEachDamage calls f with file truncated at, zeroed from, zeroed up to, and altered at every byte, and with a zeroed page.
func forEachDamage(file []byte, f func(what string, damaged []byte)) {
	zero := func(from, to int) []byte {
		b := bytes.Clone(file)
		clear(b[from:to])
		return b
	}
	for i := range file {
		f(fmt.Sprintf("truncated to %d bytes", i), file[:i])
		f(fmt.Sprintf("zeroed from byte %d", i), zero(i, len(file)))
		f(fmt.Sprintf("zeroed up to byte %d", i), zero(0, i+1))
		f(fmt.Sprintf("zeroed at byte %d", i), zero(i, i+1))
		f(fmt.Sprintf("zeroed for 16 bytes at %d", i), zero(i, min(i+16, len(file))))
		flipped := bytes.Clone(file)
		flipped[i] ^= 0x20
		f(fmt.Sprintf("altered at byte %d", i), flipped)
	}
	f("with a byte more", append(bytes.Clone(file), 'x'))
	f("twice as long", append(bytes.Clone(file), file...))
	f("extended by zeros", append(bytes.Clone(file), make([]byte, 512)...))
}

// hostile is data that contains a whole state file, and ends with one: a format that keeps its checksum behind the data would take
// a part of it for the whole.
func hostile(last string) []byte {
	return append(append([]byte("new\n"), encode([]byte("old spent invitation\n"))...), encode([]byte(last))...)
}

func TestDamageGoesBackOneGeneration(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "revocations", "the generation before")
	put(t, s, "revocations", string(hostile("x")))
	whole := content(t, s, "revocations")
	n := 0
	forEachDamage(whole, func(what string, damaged []byte) {
		if bytes.Equal(damaged, whole) { // zeroing a zero
			return
		}
		n++
		overwrite(t, s, "revocations", damaged)
		s.rolled = map[string]bool{}
		got, err := s.Read("revocations")
		if err != nil || string(got) != "the generation before" {
			t.Fatalf("%s: reads as %q (%v)", what, got, err)
		}
		if names := s.RolledBack(); !slices.Equal(names, []string{"revocations"}) {
			t.Fatalf("%s: nobody was told: %v", what, names)
		}
	})
	if n < 1000 {
		t.Errorf("only %d kinds of damage", n)
	}
	overwrite(t, s, "revocations", whole)
	wantRead(t, s, "revocations", string(hostile("x")))
}

func TestDamageOfTheOnlyGenerationNamesTheFile(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "identity.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	whole := content(t, s, "identity.key")
	path := filepath.Join(s.dir, "identity.key")
	forEachDamage(whole, func(what string, b []byte) {
		overwrite(t, s, "identity.key", b)
		data, err := s.Read("identity.key")
		var d *DamagedError
		if !errors.As(err, &d) || data != nil || d.Path != path || d.Name != "identity.key" {
			t.Fatalf("%s: %q, %v", what, data, err)
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: looks as if there never was a key: %v", what, err)
		}
		wantError(t, err, nil, "there is no previous generation; restore "+path+" from a backup")
	})
}

func TestDamageOfBothGenerations(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "chain.pem", "one")
	put(t, s, "chain.pem", "two")
	overwrite(t, s, "chain.pem.prev", nil)
	wantRead(t, s, "chain.pem", "two") // damage of the previous generation alone matters to nobody
	overwrite(t, s, "chain.pem", make([]byte, 100))
	_, err := s.Read("chain.pem")
	wantError(t, err, nil, "it is 100 zero bytes; chain.pem.prev is damaged as well: it is empty; restore")
	if err := os.Remove(filepath.Join(s.dir, "chain.pem")); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read("chain.pem")
	wantError(t, err, nil, "chain.pem is gone; chain.pem.prev is damaged")
	if errors.Is(err, fs.ErrNotExist) {
		t.Error("a lost file looks like one that never was")
	}
}

func TestLostNewestGeneration(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "chain.pem", "one")
	put(t, s, "chain.pem", "two")
	if err := os.Remove(filepath.Join(s.dir, "chain.pem")); err != nil {
		t.Fatal(err)
	}
	wantRead(t, s, "chain.pem", "one")
	if !slices.Equal(s.RolledBack(), []string{"chain.pem"}) {
		t.Error("nobody was told")
	}
}

func TestDamagedGenerationIsNotKept(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "chain.pem", "one")
	put(t, s, "chain.pem", "two")
	overwrite(t, s, "chain.pem", []byte("torn"))
	put(t, s, "chain.pem", "three")
	wantRead(t, s, "chain.pem", "three")
	overwrite(t, s, "chain.pem", nil)
	wantRead(t, s, "chain.pem", "one")
}

// A power cut between any two steps of a Write leaves the old generation or the new one, whole, and nobody goes back.
func TestPowerCutDuringWrite(t *testing.T) {
	var steps []string
	count := open(t, stateDir(t))
	put(t, count, "state", "one")
	put(t, count, "state", "two")
	count.fault = func(step string) error { steps = append(steps, step); return nil }
	put(t, count, "state", "three")
	if len(steps) != 5 {
		t.Fatalf("the steps are %q", steps)
	}
	for cut, step := range steps {
		dir := stateDir(t)
		s := open(t, dir)
		put(t, s, "state", "one")
		put(t, s, "state", "two")
		n := 0
		s.fault = func(string) error {
			n++
			if n > cut {
				return errCrash
			}
			return nil
		}
		wantError(t, s.Write("state", []byte("three")), errCrash, "power cut")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		want := "two"
		if step == "sync folder" {
			want = "three"
		}
		wantRead(t, s, "state", want)
		if len(s.RolledBack()) > 0 {
			t.Errorf("cut before %q: %v went back", step, s.RolledBack())
		}
		for _, name := range list(t, s) {
			if strings.HasSuffix(name, tempSuffix) {
				t.Errorf("cut before %q: %s was left", step, name)
			}
		}
		put(t, s, "state", "four")
		wantRead(t, s, "state", "four")
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	s := open(t, stateDir(t))
	put(t, s, "state", "one")
	full := errors.New("no space left on device")
	s.fault = func(step string) error {
		if step == "rename state" {
			return full
		}
		return nil
	}
	wantError(t, s.Write("state", []byte("two")), full, "writing state file state: no space")
	wantRead(t, s, "state", "one")
	if names := list(t, s); !slices.Equal(names, []string{"lock", "state", "state.prev"}) {
		t.Errorf("the folder has %v", names)
	}
}

// A Write whose last step failed is not on the disk for sure. The same Write again must not take the file's presence for success.
func TestRetriedWriteSyncsTheFolder(t *testing.T) {
	s := open(t, stateDir(t))
	var steps []string
	broken := errors.New("input/output error")
	s.fault = func(step string) error {
		steps = append(steps, step)
		if step == "sync folder" && len(steps) < 4 {
			return broken
		}
		return nil
	}
	wantError(t, s.Write("revocations", []byte("one")), broken, "revocations")
	put(t, s, "revocations", "one")
	if last := steps[len(steps)-1]; last != "sync folder" || len(steps) != 4 {
		t.Errorf("the steps are %q", steps)
	}
}

func TestCache(t *testing.T) {
	s := open(t, stateDir(t))
	_, err := s.ReadCache("records")
	wantError(t, err, fs.ErrNotExist, "records")
	if err := s.WriteCache("records", []byte("many")); err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadCache("records")
	if err != nil || string(got) != "many" {
		t.Fatalf("%q, %v", got, err)
	}
	whole := content(t, s, "records")
	shared, err := OpenShared(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	forEachDamage(whole, func(what string, b []byte) {
		overwrite(t, s, "records", b)
		if _, err := shared.ReadCache("records"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(s.dir, "records")); err != nil {
			t.Fatalf("%s: removed by a reader: %v", what, err)
		}
		if _, err := s.ReadCache("records"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(s.dir, "records")); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: it was not removed: %v", what, err)
		}
	})
	if names := s.RolledBack(); len(names) > 0 {
		t.Errorf("%v went back", names)
	}
}

func TestRemoveAndWipe(t *testing.T) {
	s := open(t, stateDir(t))
	for _, name := range []string{"root.key", "identity.key", "chain.pem"} {
		put(t, s, name, "one")
		put(t, s, name, "two")
	}
	for range 2 { // the second time there is nothing to remove
		if err := s.Remove("chain.pem"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Read("chain.pem")
	wantError(t, err, fs.ErrNotExist, "chain.pem")
	if err := os.Mkdir(filepath.Join(s.dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.WipeExcept("root.key"); err != nil {
		t.Fatal(err)
	}
	if names := list(t, s); !slices.Equal(names, []string{"lock", "logs", "root.key", "root.key.prev"}) {
		t.Errorf("the folder has %v", names)
	}
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	if names := list(t, s); !slices.Equal(names, []string{"lock", "logs"}) {
		t.Errorf("the folder has %v", names)
	}
}

func TestEraseOverwrites(t *testing.T) {
	dir := t.TempDir()
	path, hold := filepath.Join(dir, "key"), filepath.Join(dir, "hold")
	if err := os.WriteFile(path, []byte("a private key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, hold); err != nil {
		t.Skip(err)
	}
	if err := erase(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(hold)
	if err != nil || !bytes.Equal(b, make([]byte, 13)) {
		t.Errorf("%q is still on the disk (%v)", b, err)
	}
}

// Tools that look for a PEM block find it behind the header.
func TestPEMStaysReadable(t *testing.T) {
	want := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("key")})
	block, rest := pem.Decode(encode(want))
	if block == nil || string(block.Bytes) != "key" || len(rest) > 0 {
		t.Fatalf("%v, %q", block, rest)
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range []string{"", "one", "-----BEGIN X-----\n", "\n\n", "\x00"} {
		f.Add(encode([]byte(data)))
		f.Add([]byte(data))
	}
	f.Add(hostile("y"))
	f.Add(encode([]byte("three"))[:40])
	accepted := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, file := range [][]byte{b, encode(b)} {
			data, err := decode(file)
			if err != nil {
				if err.Error() == "" || data != nil {
					t.Fatalf("%q with error %v", data, err)
				}
				continue
			}
			accepted++
			if !bytes.Equal(encode(data), file) {
				t.Fatalf("two files of the same data: %q and %q", encode(data), file)
			}
			if len(file) > 0 {
				if _, err := decode(file[:len(file)-1]); err == nil {
					t.Fatal("the file without its last byte was accepted")
				}
			}
		}
	})
	// While fuzzing, the inputs run in other processes, which count for themselves.
	if flag.Lookup("test.fuzz").Value.String() == "" && accepted == 0 {
		f.Fatal("no input of the corpus was accepted: add seeds")
	}
}

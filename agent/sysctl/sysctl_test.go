package sysctl

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memory are notes that fail when told to.
type memory struct {
	data []byte
	fail bool
}

func (m *memory) ReadCache(string) ([]byte, error) {
	if m.data == nil {
		return nil, fmt.Errorf("notes: %w", fs.ErrNotExist)
	}
	return m.data, nil
}

func (m *memory) WriteCache(_ string, b []byte) error {
	if m.fail {
		return fmt.Errorf("disk full")
	}
	m.data = b
	return nil
}

func (m *memory) Remove(string) error { m.data = nil; return nil }

type world struct {
	t    *testing.T
	root string
	log  bytes.Buffer
	mem  memory
}

func newWorld(t *testing.T, settings ...string) *world {
	w := &world{t: t, root: t.TempDir()}
	w.set(settings...)
	return w
}

func (w *world) set(settings ...string) {
	w.t.Helper()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		path := filepath.Join(w.root, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) want(settings ...string) {
	w.t.Helper()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		b, err := os.ReadFile(filepath.Join(w.root, key))
		if err != nil || strings.TrimSpace(string(b)) != value {
			w.t.Errorf("%s is %q (%v), want %s", key, b, err, value)
		}
	}
}

func (w *world) keeper(life string) *Keeper {
	return New(w.root, life, &w.mem, slog.New(slog.NewTextHandler(&w.log, nil)))
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

func TestChangesAreMadeAndPutBack(t *testing.T) {
	w := newWorld(t, "a/x=0", "a/y=1", "b=7")
	k := w.keeper("boot")
	w.ok(k.Change([]Setting{{"a/x", "1"}, {"a/y", "1"}, {"not/there", "1"}}))
	w.ok(k.Change([]Setting{{"b", "8"}}))
	w.want("a/x=1", "a/y=1", "b=8")
	if w.mem.data == nil {
		t.Error("nothing was noted")
	}
	w.set("a/y=0") // as a side effect of a/x would
	w.set("a/y=1")
	w.ok(k.Restore())
	w.want("a/x=0", "a/y=1", "b=7")
	if w.mem.data != nil {
		t.Errorf("notes left: %s", w.mem.data)
	}
	w.ok(k.Restore())
}

// TestChangedAgain: somebody else has put back what was changed, and it is changed once more: there is nothing new to remember.
func TestChangedAgain(t *testing.T) {
	w := newWorld(t, "x=0", "y=1")
	k := w.keeper("boot")
	change := []Setting{{"x", "1"}, {"y", "1"}}
	w.ok(k.Change(change))
	noted := string(w.mem.data)
	for range 3 {
		w.set("x=0")
		w.ok(k.Change(change))
		w.want("x=1")
	}
	if string(w.mem.data) != noted {
		t.Errorf("notes: %s, before: %s", w.mem.data, noted)
	}
	w.set("x=0", "y=0")
	w.ok(k.Change(change)) // y was 1 when it was noted: this is their will
	w.ok(k.Restore())
	w.want("x=0", "y=0")
}

func TestANewStartPutsBackWhatAKilledOneChanged(t *testing.T) {
	w := newWorld(t, "x=0", "gone=0")
	w.ok(w.keeper("boot").Change([]Setting{{"x", "1"}, {"gone", "1"}})) // and is killed
	if err := os.Remove(filepath.Join(w.root, "gone")); err != nil {
		t.Fatal(err)
	}
	next := w.keeper("boot")
	w.ok(next.Recover())
	w.want("x=0")
	if w.mem.data != nil {
		t.Errorf("notes left: %s", w.mem.data)
	}
	w.ok(next.Recover()) // nothing to do
}

func TestNotesOfAnotherBootAreWorthNothing(t *testing.T) {
	for name, data := range map[string]string{"other boot": "", "damaged": "{", "another version": "[]"} {
		w := newWorld(t, "x=0")
		w.ok(w.keeper("boot").Change([]Setting{{"x", "1"}}))
		if data != "" {
			w.mem.data = []byte(data)
		}
		w.ok(w.keeper("the next boot").Recover())
		w.want("x=1")
		if w.mem.data != nil {
			t.Errorf("%s: notes left: %s", name, w.mem.data)
		}
	}
}

func TestWhatSomebodyElseChangedIsLeftToThem(t *testing.T) {
	w := newWorld(t, "x=0", "y=0")
	k := w.keeper("boot")
	w.ok(k.Change([]Setting{{"x", "1"}, {"y", "1"}}))
	w.set("x=5")
	w.ok(k.Restore())
	w.want("x=5", "y=0")
	if !strings.Contains(w.log.String(), "somebody else") || !strings.Contains(w.log.String(), "setting=x") {
		t.Errorf("log: %s", w.log.String())
	}
}

// TestAFailedChangeLeavesNothing: a folder in place of a setting cannot be read, and one whose notes cannot be written is not changed.
func TestAFailedChangeLeavesNothing(t *testing.T) {
	w := newWorld(t, "x=0")
	w.mem.fail = true
	k := w.keeper("boot")
	if err := k.Change([]Setting{{"x", "1"}}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("error: %v", err)
	}
	w.want("x=0")
	w.mem.fail = false
	if err := os.Mkdir(filepath.Join(w.root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := k.Change([]Setting{{"x", "1"}, {"dir", "1"}}); err == nil || !strings.Contains(err.Error(), "net.dir") {
		t.Errorf("error: %v", err)
	}
	w.want("x=0")
	w.ok(k.Restore())
	w.want("x=0")
}

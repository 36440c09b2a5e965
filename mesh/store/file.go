package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DamagedError says that no generation of a state file is whole, and which file to restore.
type DamagedError struct {
	Name string // as given to Read
	Path string // the file to restore
	Why  error  // what is wrong with the newest generation; fs.ErrNotExist: it is gone
	Prev error  // what is wrong with the previous one; fs.ErrNotExist: there is none
}

// Error says what happened and what to do.
func (e *DamagedError) Error() string {
	what := fmt.Sprintf("is damaged: %v", e.Why)
	if errors.Is(e.Why, fs.ErrNotExist) {
		what = "is gone"
	}
	prev := fmt.Sprintf("%s%s is damaged as well: %v", filepath.Base(e.Path), prevSuffix, e.Prev)
	if errors.Is(e.Prev, fs.ErrNotExist) {
		prev = "there is no previous generation"
	}
	return fmt.Sprintf("the state file %s %s; %s; restore %s from a backup", e.Path, what, prev, e.Path)
}

// Unwrap returns what is wrong with the newest generation, unless that is its absence: a lost file must not look like one that never
// was.
func (e *DamagedError) Unwrap() error {
	if errors.Is(e.Why, fs.ErrNotExist) {
		return nil
	}
	return e.Why
}

// Read returns the newest whole generation of name. If that is the previous one, RolledBack has the name from then on. It returns
// fs.ErrNotExist (wrapped) when there is no generation at all and *DamagedError when there is none that is whole. A file that may not
// be read, or that others may read, is an error, never a reason to go back.
func (s *Store) Read(name string) ([]byte, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	data, why := load(path)
	if why == nil {
		return data, nil
	}
	if errors.Is(why, fs.ErrPermission) {
		return nil, fmt.Errorf("reading state file %s: it belongs to another user than this agent's: run `sudo chown --reference=%s %s`: %w",
			name, quote(s.dir), quote(path), why)
	}
	if !lost(why) {
		return nil, fmt.Errorf("reading state file %s: %w", name, why)
	}
	data, prev := load(path + prevSuffix)
	switch {
	case prev == nil:
		s.markRolledBack(name)
		return data, nil
	case !lost(prev):
		return nil, fmt.Errorf("reading state file %s, the newest generation of which is lost (%w): %w", name, why, prev)
	case errors.Is(why, fs.ErrNotExist) && errors.Is(prev, fs.ErrNotExist):
		return nil, fmt.Errorf("reading state file %s: %w", name, fs.ErrNotExist)
	}
	return nil, &DamagedError{Name: name, Path: path, Why: why, Prev: prev}
}

// lost reports whether a generation is gone or damaged, as opposed to out of our reach.
func lost(err error) bool {
	var d *damage
	return errors.As(err, &d) || errors.Is(err, fs.ErrNotExist)
}

// Write makes data the newest generation of name and keeps the one before it. When it returns nil, data is on the disk; when it
// returns an error, the generation before is still there. Writing what is stored already changes
// neither generation.
func (s *Store) Write(name string, data []byte) error {
	path, err := s.writable(name)
	if err != nil {
		return err
	}
	if len(data) > maxSize-1024 {
		return fmt.Errorf("writing state file %s: %d bytes, at most %d are allowed", name, len(data), maxSize-1024)
	}
	old, err := load(path)
	switch {
	case err == nil && bytes.Equal(old, data):
		// The Write before may have failed after its rename.
		if err := s.syncDir(); err != nil {
			return fmt.Errorf("writing state file %s: %w", name, err)
		}
		return nil
	case err == nil:
		if err := s.replace(path+prevSuffix, old, true); err != nil {
			return fmt.Errorf("keeping the previous generation of state file %s: %w", name, err)
		}
	case !lost(err):
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	if err := s.replace(path, data, true); err != nil {
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	if err := s.syncDir(); err != nil {
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	return nil
}

// replace puts a file with data in place of the one at path, in one step.
func (s *Store) replace(path string, data []byte, durable bool) (err error) {
	if err := s.step("create " + filepath.Base(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, filepath.Base(path)+".*"+tempSuffix) // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, errCrash) {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close() // a second Close after the one below only returns an error
	if err := adopt(f, s.dir); err != nil {
		return err
	}
	if _, err := f.Write(encode(data)); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.step("rename " + filepath.Base(path)); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// errCrash is what fault returns in tests for a power cut: nothing is cleaned up after it.
var errCrash = errors.New("power cut")

func (s *Store) step(name string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(name)
}

func (s *Store) syncDir() error {
	if err := s.step("sync folder"); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadCache returns what WriteCache stored. A damaged cache is removed (unless the store is shared) and is fs.ErrNotExist (wrapped),
// as a missing one is.
func (s *Store) ReadCache(name string) ([]byte, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	data, err := load(path)
	var d *damage
	switch {
	case err == nil:
		return data, nil
	case !errors.As(err, &d):
		return nil, fmt.Errorf("reading cache %s: %w", name, err)
	}
	if s.lock != nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("removing the damaged cache %s: %w", name, err)
		}
	}
	return nil, fmt.Errorf("the cache %s was damaged (%w): %w", name, d, fs.ErrNotExist)
}

// WriteCache stores data, without a previous generation and without waiting for the disk: a power cut may lose or tear it, which
// ReadCache notices. So a large cache does not hold up a Write on a slow disk.
func (s *Store) WriteCache(name string, data []byte) error {
	path, err := s.writable(name)
	if err != nil {
		return err
	}
	if len(data) > maxSize-1024 {
		return fmt.Errorf("writing cache %s: %d bytes, at most %d are allowed", name, len(data), maxSize-1024)
	}
	if err := s.replace(path, data, false); err != nil {
		return fmt.Errorf("writing cache %s: %w", name, err)
	}
	return nil
}

// Remove erases every generation of name. It is no error if there is none.
func (s *Store) Remove(name string) error {
	path, err := s.writable(name)
	if err != nil {
		return err
	}
	// The previous one first: broken off in between, the newest is still there, and nobody goes back.
	for _, p := range []string{path + prevSuffix, path} {
		if err := erase(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing state file %s: %w", name, err)
		}
	}
	if err := s.syncDir(); err != nil {
		return fmt.Errorf("removing state file %s: %w", name, err)
	}
	return nil
}

// Wipe erases every file in the folder but the lock, keys and all generations included. It goes on after an error and returns all of
// them.
func (s *Store) Wipe() error { return s.WipeExcept() }

// WipeExcept is Wipe, but keeps all generations of the given names: on the machine that made the network, its root key may be the
// only copy.
func (s *Store) WipeExcept(keep ...string) error {
	if _, err := s.writable("all"); err != nil {
		return err
	}
	names, err := s.files(func(name string) bool {
		return !slices.Contains(keep, strings.TrimSuffix(name, prevSuffix))
	})
	if err != nil {
		return err
	}
	// .prev sorts after its name; backwards, so that the previous generation goes first, as in Remove.
	var errs []error
	for _, name := range slices.Backward(names) {
		if err := erase(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("wiping the state folder: %w", err))
		}
	}
	return errors.Join(append(errs, s.syncDir())...)
}

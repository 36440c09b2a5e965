// Package store keeps a member's identity and state on disk, so that a power cut at any moment leaves either the old state or the
// new one, and damage is noticed instead of believed.
//
// It owns one folder (0700) and every file in it (0600), and locks it against a second agent. It never looks into what it stores,
// never holds state in memory, and starts nothing. Each name has one owner: calls for different names may run at the same time,
// calls for one name must not overlap.
//
// # Files
//
//	NAME             the newest generation
//	NAME.prev        the one before it (not for caches)
//	NAME.*.tmp       being written; Open removes those of a crash
//	lock             held (flock) while an agent runs; contains its process ID
//
// Each is one line of header, then the data as it is. Tools that skip text in front of a PEM block (openssl) read such files
// directly; for others, `tail -n +2 FILE`.
//
//	# gridwire state 1 sha256=HEX size=BYTES\n
//	data, BYTES bytes
//
// The header stands first, not last, because then no truncated file can be valid, whatever the data is.
//
// # Order of a write
//
// The old generation is copied to NAME.prev, then the new one is put in place; each by temporary file, fsync, rename. In the end the
// folder is fsynced. At every moment in between, NAME is a whole generation. A damaged NAME never replaces a NAME.prev.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	lockName   = "lock"
	prevSuffix = ".prev"
	tempSuffix = ".tmp"
	maxName    = 64
	// maxSize bounds what Read allocates for a wrong file: 20,000 records, the directory's limit, take less.
	maxSize = 512 << 20
)

var (
	// ErrLocked says that another agent uses the folder.
	ErrLocked = errors.New("another agent uses this state folder")
	// ErrShared says that the store was opened by OpenShared, which reads only.
	ErrShared = errors.New("the state folder is open for reading only")
)

// Store is one state folder.
type Store struct {
	dir  string
	lock *os.File // nil: shared

	closed atomic.Bool
	fault  func(step string) error // tests break off a Write between two steps; nil otherwise

	mu     sync.Mutex // guards rolled
	rolled map[string]bool
}

// Open opens the folder dir for its agent, creates it if need be (0700), and locks it until Close. It refuses a folder or a state
// file that others may read, with the chmod command to run, and returns ErrLocked (wrapped) if another agent holds the folder.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the state folder: %w", err)
	}
	s, err := OpenShared(dir)
	if err != nil {
		return nil, err
	}
	s.lock, err = acquire(filepath.Join(s.dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("locking the state folder %s: %w", s.dir, err)
	}
	if err := s.removeTemps(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenShared opens an existing folder for reading, without a lock: for short-lived commands beside a running agent. It makes the
// same demands on modes as Open. Write, Remove and Wipe return ErrShared. A folder that does not exist is fs.ErrNotExist (wrapped).
func OpenShared(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the state folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("opening the state folder: %s is not a folder; give another one with --state", dir)
	}
	if wide := info.Mode().Perm() & 0o077; wide != 0 {
		return nil, fmt.Errorf("the state folder %s holds private keys and others may enter it (mode %04o): run `chmod 700 %s`",
			dir, info.Mode().Perm(), quote(dir))
	}
	s := &Store{dir: dir, rolled: map[string]bool{}}
	if err := s.checkModes(); err != nil {
		return nil, err
	}
	return s, nil
}

// Dir returns the folder's absolute path.
func (s *Store) Dir() string { return s.dir }

// checkModes refuses state files that others may read. What has no header of ours is none of ours to judge.
func (s *Store) checkModes() error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the state folder %s is another user's: run this as root, or as the user that the agent runs as: %w", s.dir, err)
	}
	if err != nil {
		return fmt.Errorf("reading the state folder: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == lockName {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // a temporary file of the running agent
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the state folder: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 && hasHeader(path) {
			return wideMode(path, info.Mode())
		}
	}
	return nil
}

func wideMode(path string, mode fs.FileMode) error {
	return fmt.Errorf("the state file %s may be read by others (mode %04o): run `chmod 600 %s`", path, mode.Perm(), quote(path))
}

// quote makes a path safe to paste into a shell.
func quote(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if path != "" && strings.IndexFunc(path, func(r rune) bool { return !plain(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// removeTemps removes what a crash left half written.
func (s *Store) removeTemps() error {
	temps, err := s.files(func(name string) bool { return strings.HasSuffix(name, tempSuffix) })
	if err != nil {
		return err
	}
	for _, name := range temps {
		if err := erase(filepath.Join(s.dir, name)); err != nil {
			return fmt.Errorf("removing what an interrupted write left: %w", err)
		}
	}
	return nil
}

// files lists the folder's regular files that belong to the store and that match, sorted.
func (s *Store) files(match func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the state folder: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != lockName && match(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// path checks name: lower-case letters, digits, dots and hyphens, beginning with a letter or digit, at most 64, and not one of the
// names this package makes itself.
func (s *Store) path(name string) (string, error) {
	if s.closed.Load() {
		return "", fmt.Errorf("state file %s: the store: %w", name, fs.ErrClosed)
	}
	ok := len(name) > 0 && len(name) <= maxName && name != lockName && name[0] != '.' && name[0] != '-' &&
		!strings.HasSuffix(name, prevSuffix) && !strings.HasSuffix(name, tempSuffix)
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-')
	}
	if !ok {
		return "", fmt.Errorf("state file %q: a name has lower-case letters, digits, dots and hyphens, and no suffix of the store's own", name)
	}
	return filepath.Join(s.dir, name), nil
}

func (s *Store) writable(name string) (string, error) {
	if s.lock == nil {
		return "", fmt.Errorf("writing state file %s: %w", name, ErrShared)
	}
	return s.path(name)
}

// RolledBack returns, sorted, the names for which Read had to use the previous generation since Open. Their owners must not act as
// if nothing happened in between. A Write does not take a name off the list, but the next Open starts with an empty one: an owner that
// cares writes down that it went back.
func (s *Store) RolledBack() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.rolled))
	for name := range s.rolled {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *Store) markRolledBack(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rolled[name] = true
}

// Close lets another agent have the folder. Calls after it fail with fs.ErrClosed.
func (s *Store) Close() error {
	if s.closed.Swap(true) || s.lock == nil {
		return nil
	}
	// The file stays: to remove it would let two agents lock two files of one name.
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("unlocking the state folder %s: %w", s.dir, err)
	}
	return nil
}

package osconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeOwn writes a file that is ours as a whole, unless it is there and not as we left it.
func (e Env) writeOwn(name, text string) error {
	was, err := os.ReadFile(e.path(name))
	if err == nil && !owned(string(was)) {
		return fmt.Errorf("%s is there and not as gridwire would have left it: %w", name, ErrChanged)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rights(err)
	}
	return rights(replace(e.path(name), text, e.path(name)))
}

// removeOwn removes a file that is ours as a whole and as we left it.
func (e Env) removeOwn(name string) error {
	was, err := os.ReadFile(e.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !owned(string(was)) {
		return fmt.Errorf("%s is not as gridwire wrote it: %w; it is left alone", name, ErrChanged)
	}
	if err == nil {
		err = os.Remove(e.path(name))
	}
	return rights(err)
}

// removeDead removes the files of ours in a folder whose interface is no more.
func (e Env) removeDead(folder string) (done []string, err error) {
	entries, err := os.ReadDir(e.path(folder))
	if err != nil {
		return nil, nil // no such folder, or none that we could have written to
	}
	var errs []error
	for _, entry := range entries {
		name := filepath.Join(folder, entry.Name())
		text, ok := e.read(name)
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		found := marks(text)
		if len(found) == 0 || e.alive(found[0].iface) {
			continue
		}
		if err := e.removeOwn(name); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, fmt.Sprintf("%s: removed", name))
	}
	return done, errors.Join(errs...)
}

// owned reports whether a file is one block of ours, unchanged, and nothing else.
func owned(text string) bool {
	found := marks(text)
	return len(found) == 1 && found[0].intact && found[0].start == 0 && found[0].end == len(text)
}

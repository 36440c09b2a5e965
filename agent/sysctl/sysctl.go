// Package sysctl changes kernel settings below /proc/sys/net and puts them back: when asked, and at the next start after a kill -9.
//
// It owns the list of what was changed, and what it was before. The list is written down before the first change. It knows nothing of what
// a setting means, except that setting one may change others: callers name those too.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Notes outlive the process. A power cut may lose them: it loses the changed settings too.
type Notes interface {
	ReadCache(name string) ([]byte, error) // fs.ErrNotExist (wrapped) if there is none
	WriteCache(name string, data []byte) error
	Remove(name string) error // no error if there is none
}

// NotesFile is the name under which the list of changes is kept.
const NotesFile = "sysctl"

// Setting is a value for a file below the root, such as {"ipv4/ip_forward", "1"}.
type Setting struct{ Key, Value string }

// change is a setting that was made, and what it was before. Was and Set are equal for a setting that had the wanted value, but which a
// change of another one is to be shielded from when it is put back.
type change struct{ Key, Was, Set string }

// record is what the notes hold. Settings belong to one boot of one network namespace; notes of another are worth nothing.
type record struct {
	Life   string
	Groups [][]change
}

// Keeper remembers changes. It is not safe for concurrent use.
type Keeper struct {
	root  string
	life  string
	notes Notes
	log   *slog.Logger
	done  [][]change
}

// New changes nothing. root is /proc/sys/net, except in tests; life names this boot and namespace (Life). Notes may be nil: then nobody
// puts back what a killed process changed.
func New(root, life string, notes Notes, log *slog.Logger) *Keeper {
	return &Keeper{root: root, life: life, notes: notes, log: log}
}

// Life names this boot of this network namespace.
func Life() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = []byte("unknown boot")
	}
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		ns = "unknown namespace"
	}
	return strings.TrimSpace(string(boot)) + " " + ns
}

// Recover puts back what a process that was killed had changed.
func (k *Keeper) Recover() error {
	if k.notes == nil {
		return nil
	}
	b, err := k.notes.ReadCache(NotesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading which kernel settings an earlier agent had changed: %w", err)
	}
	var r record
	if json.Unmarshal(b, &r) != nil || r.Life != k.life {
		return k.notes.Remove(NotesFile)
	}
	k.done = r.Groups
	return k.Restore()
}

// Left lists the settings that a process which was killed had changed and that are still as it left them, as sysctl(8) writes them.
func (k *Keeper) Left() (out []string) {
	if k.notes == nil {
		return nil
	}
	b, err := k.notes.ReadCache(NotesFile)
	var r record
	if err != nil || json.Unmarshal(b, &r) != nil || r.Life != k.life {
		return nil
	}
	for _, group := range r.Groups {
		for _, c := range group {
			if now, err := k.read(c.Key); err == nil && now == c.Set && now != c.Was {
				out = append(out, name(c.Key)+"="+now)
			}
		}
	}
	return out
}

// Change makes settings, in order. Those that do not exist are left out: an interface may have gone. After an error nothing of this
// call is left changed.
func (k *Keeper) Change(settings []Setting) error {
	var group []change
	for _, s := range settings {
		was, err := k.read(s.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		group = append(group, change{s.Key, was, s.Value})
	}
	if len(group) == 0 {
		return nil
	}
	if k.noted(group) { // somebody else has put it all back since, as far as it is not so still
		return k.setAll(group)
	}
	k.done = append(k.done, group)
	if err := k.write(); err != nil {
		k.done = k.done[:len(k.done)-1]
		return err
	}
	if err := k.setAll(group); err != nil {
		k.done = k.done[:len(k.done)-1]
		return errors.Join(err, k.back(group), k.write())
	}
	return nil
}

func (k *Keeper) setAll(group []change) error {
	for _, c := range group {
		if err := k.set(c.Key, c.Set); err != nil {
			return err
		}
	}
	return nil
}

// noted reports whether all of a group is in the list already, with the same value to go back to.
func (k *Keeper) noted(group []change) bool {
	for _, c := range group {
		if !slices.ContainsFunc(k.done, func(g []change) bool { return slices.Contains(g, c) }) {
			return false
		}
	}
	return true
}

// Restore puts everything back, the last group first. A setting that somebody else has changed since is left to them.
func (k *Keeper) Restore() error {
	if len(k.done) == 0 {
		return nil
	}
	var errs []error
	for i := len(k.done) - 1; i >= 0; i-- {
		errs = append(errs, k.back(k.done[i]))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the notes stay, for the next start
	}
	k.done = nil
	return k.write()
}

// back puts a group back. What is still ours is decided before the first change, because one changes others.
func (k *Keeper) back(group []change) error {
	var errs []error
	var ours []change
	for _, c := range group {
		now, err := k.read(c.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case now == c.Set:
			ours = append(ours, c)
		case now != c.Was:
			k.log.Warn("somebody else has changed a kernel setting since; it is left as it is", "setting", c.Key, "was", c.Was, "ours", c.Set, "now", now)
		}
	}
	for _, c := range ours {
		errs = append(errs, k.set(c.Key, c.Was))
	}
	return errors.Join(errs...)
}

func (k *Keeper) write() error {
	if k.notes == nil {
		return nil
	}
	if len(k.done) == 0 {
		return k.notes.Remove(NotesFile)
	}
	b, err := json.Marshal(record{k.life, k.done})
	if err != nil {
		return err
	}
	if err := k.notes.WriteCache(NotesFile, b); err != nil {
		return fmt.Errorf("writing down which kernel settings are changed, before changing them: %w", err)
	}
	return nil
}

func (k *Keeper) read(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(k.root, key))
	if err != nil {
		return "", fmt.Errorf("reading the kernel setting %s: %w", name(key), err)
	}
	return strings.TrimSpace(string(b)), nil
}

// set writes only what is not so already. A setting that has gone with its interface is no error.
func (k *Keeper) set(key, value string) error {
	now, err := k.read(key)
	if err == nil && now == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(k.root, key), []byte(value), 0)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("setting %s=%s: this needs the capability CAP_NET_ADMIN and a writable /proc/sys/net (in a container: `--sysctl %s=%s`): %w",
		name(key), value, name(key), value, err)
}

// name is how sysctl(8) writes a key.
func name(key string) string { return "net." + strings.ReplaceAll(key, "/", ".") }

package osconf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// shared reports that a file belongs to the whole machine, while this program is in a network namespace of its own (`ip netns exec` without
// /etc/netns/NAME/resolv.conf): the machine's resolver must not be sent to an address that only this namespace has, nor may marks be
// called dead because their interface is not here. In a container, or under a bind mount, the file is another than the first process's.
func shared(name string) bool {
	if !ownNamespace() {
		return false
	}
	here, err := os.Stat(name)
	if err != nil {
		return false
	}
	theirs, err := os.Stat("/proc/1/root" + name)
	switch {
	case err == nil:
		return os.SameFile(here, theirs)
	case errors.Is(err, fs.ErrNotExist):
		return false
	}
	// Whoever may not look at the first process goes by what is mounted: something over the file, or over a folder on the way to it.
	table, _ := os.ReadFile("/proc/thread-self/mountinfo")
	for ; name != "/" && name != "/run"; name = filepath.Dir(name) {
		if mountPoint(string(table), name) {
			return false
		}
	}
	return true
}

// ownNamespace compares with the first process. Who may not look at that one looks among the namespaces that have names, as `ip netns` gives them.
func ownNamespace() bool {
	self, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	if first, err := os.Stat("/proc/1/ns/net"); err == nil {
		return !os.SameFile(self, first)
	}
	named, _ := filepath.Glob("/run/netns/*")
	for _, n := range named {
		if info, err := os.Stat(n); err == nil && os.SameFile(self, info) {
			return true
		}
	}
	return false
}

package osconf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// shared reports that a file belongs to the whole machine, while this program is in a network namespace of its own (`ip netns exec` without
// /etc/netns/NAME/resolv.conf): the machine's resolver must not be sent to an address that only this namespace has, nor may marks be
// called dead because their interface is not here. In a container, or under a bind mount, the file is another than the machine's.
func shared(name string) bool {
	machine, own := ownNamespace()
	if !own {
		return false
	}
	here, err := os.Stat(name)
	if err != nil {
		return false
	}
	if machine != "" {
		theirs, err := os.Stat(filepath.Join("/proc", machine, "root", name))
		switch {
		case err == nil:
			return os.SameFile(here, theirs)
		case errors.Is(err, fs.ErrNotExist):
			return false
		}
	}
	// Whoever may look at nobody else goes by what is mounted: something over the file, or over a folder on the way to it.
	table, _ := os.ReadFile("/proc/thread-self/mountinfo")
	for ; name != "/" && name != "/run"; name = filepath.Dir(name) {
		if mountPoint(string(table), name) {
			return false
		}
	}
	return true
}

// ownNamespace reports whether this program has a network namespace of its own, and names a process that is in the machine's, if it may look
// at one: the first process, or an ancestor. Else it looks among the namespaces that have names, as `ip netns` gives them.
func ownNamespace() (machine string, own bool) {
	self, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return "", false
	}
	if first, err := os.Stat("/proc/1/ns/net"); err == nil {
		return "1", !os.SameFile(self, first)
	}
	for pid, n := parent("self"), 0; pid != "" && pid != "0" && n < 64; pid, n = parent(pid), n+1 {
		if theirs, err := os.Stat("/proc/" + pid + "/ns/net"); err == nil && !os.SameFile(self, theirs) {
			return pid, true
		}
	}
	named, _ := filepath.Glob("/run/netns/*")
	for _, n := range named {
		if info, err := os.Stat(n); err == nil && os.SameFile(self, info) {
			return "", true
		}
	}
	return "", false
}

// parent returns the parent of a process (proc_pid_stat(5), the fourth field, behind the name in parentheses), or nothing.
func parent(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/stat")
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return ""
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return ""
	}
	return fields[1]
}

package osconf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// path returns where a file of the machine is: below Root in a test.
func (e Env) path(name string) string { return filepath.Join(e.Root, name) }

// read returns a file's text, and whether it is there.
func (e Env) read(name string) (string, bool) {
	b, err := os.ReadFile(e.path(name))
	return string(b), err == nil
}

// follow returns the file behind a name that may be a symbolic link, as a path of the machine. Only the last element of a path is
// followed by hand; inside a test's Root this keeps absolute links inside.
func (e Env) follow(name string) (string, error) {
	for range 40 { // the kernel's own limit
		to, err := os.Readlink(e.path(name))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL):
			return name, nil
		case err != nil:
			return "", err
		case filepath.IsAbs(to):
			name = filepath.Clean(to)
		default:
			name = filepath.Join(filepath.Dir(name), to)
		}
	}
	return "", fmt.Errorf("%s: too many symbolic links", name)
}

// replace gives a file a new content, whole or not at all, and keeps it through a power cut. Mode and owner are like's, or 0644 and ours.
func replace(path, text, like string) error {
	mode := fs.FileMode(0o644)
	info, err := os.Stat(like)
	if err == nil {
		mode = info.Mode().Perm()
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".gridwire-"+rand.Text()[:8])
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), keepOwner(f, info), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncFolder(filepath.Dir(path))
}

// overwrite gives a file a new content where it is, for one that is a mount point and so cannot be replaced. One write, and the file is
// cut only afterwards, with blank lines between: for a file of less than a page, which resolv.conf is, whoever reads it, or starts after
// we were killed, finds the old content or the new one.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	padded := text
	if n := int(info.Size()) - len(text); n > 0 {
		padded += strings.Repeat("\n", n)
	}
	_, err = f.WriteAt([]byte(padded), 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) { // a file system that cannot
		err = nil
	}
	return errors.Join(err, d.Close())
}

// mounted reports whether a path of the machine is a mount point itself, as containers and `ip netns exec` have it for resolv.conf.
// (Of a rename, EBUSY says it too, but too late to choose a name for the copy.)
func (e Env) mounted(name string) bool {
	table, _ := e.read("/proc/thread-self/mountinfo")
	return mountPoint(table, name)
}

// mountPoint looks for a mount point in mountinfo (proc_pid_mountinfo(5)): the fifth field, in which \040 is a blank.
func mountPoint(table, name string) bool {
	for line := range strings.SplitSeq(table, "\n") {
		f := strings.Fields(line)
		if len(f) > 4 && unescape(f[4]) == name {
			return true
		}
	}
	return false
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// rights adds to an error of a file operation which right is missing.
func rights(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w: it takes root", err, ErrRights)
	}
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w: it may not write there", err, ErrRights)
	}
	return err
}

// leftInPlain says what restorePlain would find to put back.
func leftInPlain(e Env) []string {
	f, err := e.openConf()
	if err != nil {
		return nil
	}
	if _, ok := f.kept(); ok && f.torn() {
		return []string{f.name + " is gone or half written"}
	}
	var out []string
	for _, m := range marks(f.text) {
		if !e.alive(m.iface) {
			out = append(out, fmt.Sprintf("%s has lines for %s", f.name, m.iface))
		}
	}
	return out
}

// leftIn says which files of ours in a folder removeDead would remove.
func (e Env) leftIn(folder string) (out []string) {
	entries, _ := os.ReadDir(e.path(folder))
	for _, entry := range entries {
		name := filepath.Join(folder, entry.Name())
		text, _ := e.read(name)
		if found := marks(text); entry.Type().IsRegular() && len(found) > 0 && !e.alive(found[0].iface) {
			out = append(out, name)
		}
	}
	return out
}

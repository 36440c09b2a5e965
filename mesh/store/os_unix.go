//go:build unix

package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// noFollow makes opening a symbolic link an error: a rename would replace the link, not what it points to.
const noFollow = syscall.O_NOFOLLOW

// openRegular opens a file for reading; anything but a regular file is an error. O_NONBLOCK: a FIFO must not hold us up.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: put the file itself there", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// acquire locks the file at path until it is closed. The kernel lets go of it when the process dies, however it dies.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		if pid := strings.TrimSpace(string(holder)); pid != "" {
			return nil, fmt.Errorf("%w (process %s): stop it, or give this one another folder with --state", ErrLocked, pid)
		}
		return nil, fmt.Errorf("%w: stop it, or give this one another folder with --state", ErrLocked)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if err := adopt(f, filepath.Dir(path)); err != nil {
		f.Close()
		return nil, err
	}
	// The process ID is for the sentence above only: a full disk must not keep an agent from starting.
	if f.Truncate(0) == nil {
		_, _ = fmt.Fprintln(f, os.Getpid())
	}
	return f, nil
}

// adopt gives a new file to the owner of its folder where root writes into the folder of the agent's user: `sudo gridwire init` beside a
// service that runs as a user of its own.
func adopt(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

//go:build unix

package osconf

import (
	"io/fs"
	"os"
	"syscall"
)

// inode returns a file's number in its file system.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino)
	}
	return 0
}

// keepOwner gives a new file the owner of the one that it replaces, if there is one.
func keepOwner(f *os.File, former fs.FileInfo) error {
	if former == nil {
		return nil
	}
	st, ok := former.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid() {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

//go:build linux

package observe

import (
	"os"
	"path/filepath"
	"strings"
)

// pages returns the folder with Prometheus' own pages, if the program was unpacked from Debian's package rather than installed; empty:
// where it looks by itself. The package links to JavaScript libraries in packages of their own, which are unpacked beside it: those links
// are made to lead there. A page without its libraries is ugly, but answers.
func pages(program string) string {
	root, found := strings.CutSuffix(program, "/usr/bin/prometheus")
	web := filepath.Join(root, "usr/share/prometheus/web")
	if _, err := os.Stat(web); !found || root == "" || err != nil {
		return ""
	}
	for _, kind := range []string{"javascript", "fonts-glyphicons"} {
		libraries, _ := filepath.Glob(filepath.Join(filepath.Dir(root), "*/usr/share", kind)) // the pattern is right
		for _, from := range libraries {
			link(from, filepath.Join(root, "usr/share", kind))
		}
	}
	return web
}

// link links what is in one folder into another one, where it is not yet.
func link(from, to string) {
	entries, err := os.ReadDir(from)
	if err != nil || from == to || os.MkdirAll(to, 0o755) != nil {
		return
	}
	for _, e := range entries {
		_ = os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())) // it exists: done before
	}
}

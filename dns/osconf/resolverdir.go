package osconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// resolverDir is macOS's way: a file in /etc/resolver for each domain that has name servers of its own (resolver(5)). The system watches
// the folder. Search has no effect: short names are completed by the network service's own list.
type resolverDir struct{ env Env }

const resolverFolder = "/etc/resolver"

func (r *resolverDir) name() string                    { return resolverFolder }
func (r *resolverDir) needsUpstream() bool             { return false }
func (r *resolverDir) upstream() ([]netip.Addr, error) { return nil, nil }

// resolverFiles returns the files, by domain.
func resolverFiles(s Settings) map[string]string {
	var b strings.Builder
	for _, a := range s.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	b.WriteString("timeout 1\n") // seconds; nobody answers if the agent was killed
	text := block(s.Interface, b.String())
	files := map[string]string{}
	for _, d := range s.domains() {
		files[d] = text
	}
	return files
}

// apply writes the files, and removes those of settings that were ours before. All or none: a file of somebody else's is found before
// the first is written.
func (r *resolverDir) apply(_ context.Context, s Settings) error {
	if err := os.MkdirAll(r.env.path(resolverFolder), 0o755); err != nil {
		return rights(err)
	}
	files := resolverFiles(s)
	for domain := range files {
		name := filepath.Join(resolverFolder, domain)
		if text, ok := r.env.read(name); ok && !owned(text) {
			return fmt.Errorf("%s is there and not as gridwire would have left it: %w", name, ErrChanged)
		}
	}
	for domain, text := range files {
		if err := r.env.writeOwn(filepath.Join(resolverFolder, domain), text); err != nil {
			return errors.Join(err, r.remove(s.Interface, nil))
		}
	}
	return r.remove(s.Interface, files)
}

func (r *resolverDir) revert(_ context.Context, s Settings) error { return r.remove(s.Interface, nil) }

// remove deletes this interface's files but those to stay.
func (r *resolverDir) remove(iface string, stay map[string]string) error {
	entries, err := os.ReadDir(r.env.path(resolverFolder))
	if err != nil {
		return rights(err)
	}
	var errs []error
	for _, entry := range entries {
		name := filepath.Join(resolverFolder, entry.Name())
		text, _ := r.env.read(name)
		if _, keep := stay[entry.Name()]; keep {
			continue
		}
		if _, ours := find(text, iface); ours {
			errs = append(errs, r.env.removeOwn(name))
		}
	}
	return errors.Join(errs...)
}

func (r *resolverDir) refresh(_ context.Context, s Settings) error {
	for domain, text := range resolverFiles(s) {
		name := filepath.Join(resolverFolder, domain)
		if now, _ := r.env.read(name); now != text {
			return fmt.Errorf("%s: %w; gridwire steps back", name, ErrChanged)
		}
	}
	return nil
}

func (r *resolverDir) wake(context.Context) (<-chan struct{}, func(), error) { return nil, nil, nil }

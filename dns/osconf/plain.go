package osconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const resolvConf = "/etc/resolv.conf"

// plain edits /etc/resolv.conf, or the file behind it if it is a symbolic link: who owns that one goes on writing it, with the next
// network's name servers; had we put a file of our own in the link's place, the machine would keep those of the last network for ever.
//
// With musl instead of glibc all servers are asked at once and the first answer counts, "no such name" too. Ours is the nearest.
type plain struct {
	env Env
	// The program that writes the file anew, whole, at each change of the network, and means nothing by dropping our lines: they are
	// put in again. Empty where a change may be somebody's will.
	author string
	again  []time.Time // when they were, lately
}

func (p *plain) name() string {
	if p.author != "" {
		return p.author + " (" + resolvConf + ")"
	}
	return resolvConf
}

func (p *plain) needsUpstream() bool { return true }

func (p *plain) upstream() ([]netip.Addr, error) {
	f, err := p.env.openConf()
	if err != nil {
		return nil, err
	}
	return nameservers(foreign(f.text)), nil
}

func (p *plain) apply(_ context.Context, s Settings) error {
	f, err := p.env.openConf()
	if err != nil {
		return rights(err)
	}
	return rights(p.put(f, s))
}

// put writes our block, in place of an older one of ours.
func (p *plain) put(f *confFile, s Settings) error {
	base, absent := f.text, f.absent
	for _, m := range marks(f.text) {
		switch {
		case m.iface == s.Interface && !m.intact:
			return f.altered(m.iface)
		case m.iface != s.Interface && p.env.alive(m.iface):
			return fmt.Errorf("%s already sends all questions of this machine to the network on %s: without split DNS there can be only "+
				"one; with systemd-resolved there may be many", f.name, m.iface)
		}
	}
	if m, ok := find(f.text, s.Interface); ok {
		base, absent = strip(f.text, m), strings.HasPrefix(m.body, wasAbsent)
		if kept, ok := f.kept(); absent || ok && kept == base {
			return f.write(edit(base, absent, s, p.env.hostname()))
		}
	}
	if !absent {
		if err := f.keep(base); err != nil {
			return fmt.Errorf("keep the original of %s: %w", f.name, err)
		}
	}
	if err := f.write(edit(base, absent, s, p.env.hostname())); err != nil {
		return errors.Join(err, f.forget())
	}
	return nil
}

func (p *plain) revert(_ context.Context, s Settings) error {
	f, err := p.env.openConf()
	if err != nil {
		return rights(err)
	}
	note, err := f.putBack(s.Interface)
	if note != "" {
		p.env.log().Info("resolver put back", "what", note)
	}
	return rights(err)
}

// refresh steps back if our lines are gone, unless who wrote the file means nothing by it.
func (p *plain) refresh(_ context.Context, s Settings) error {
	f, err := p.env.openConf()
	if err != nil {
		return err
	}
	m, ok := find(f.text, s.Interface)
	switch {
	case ok && m.intact:
		return nil
	case ok:
		return f.altered(s.Interface)
	case p.author == "" || !p.mayAgain(time.Now()):
		return fmt.Errorf("%s is without gridwire's lines: %w; gridwire steps back", f.name, ErrChanged)
	}
	return rights(p.put(f, s))
}

// mayAgain allows five times a minute: more often than a network changes, and no war with a program that will not have it.
func (p *plain) mayAgain(now time.Time) bool {
	for len(p.again) > 0 && now.Sub(p.again[0]) > time.Minute {
		p.again = p.again[1:]
	}
	if len(p.again) >= 5 {
		return false
	}
	p.again = append(p.again, now)
	return true
}

func (p *plain) wake(context.Context) (<-chan struct{}, func(), error) { return nil, nil, nil }

// restorePlain takes out what killed agents left.
func restorePlain(e Env) (done []string, err error) {
	f, err := e.openConf()
	if err != nil {
		return nil, rights(err)
	}
	if kept, ok := f.kept(); ok && f.torn() {
		if err := f.write(kept); err != nil {
			return nil, rights(err)
		}
		done = append(done, fmt.Sprintf("%s was gone or half written; the original is back", f.name))
		return done, f.forget()
	}
	var errs []error
	for _, m := range marks(f.text) {
		if e.alive(m.iface) {
			continue
		}
		if !m.intact {
			errs = append(errs, f.altered(m.iface))
			continue
		}
		note, err := f.putBack(m.iface)
		if err != nil {
			errs = append(errs, rights(err))
			continue
		}
		done = append(done, note)
		if f, err = e.openConf(); err != nil {
			return done, errors.Join(append(errs, rights(err))...)
		}
	}
	if len(marks(f.text)) == 0 {
		errs = append(errs, f.forget())
	}
	return done, errors.Join(errs...)
}

// confFile is resolv.conf as it was when it was opened.
type confFile struct {
	name    string // what the machine calls it, links followed
	path    string
	backup  string
	text    string
	absent  bool
	mounted bool
}

const maxConf = 1 << 20

// openConf reads resolv.conf.
func (e Env) openConf() (*confFile, error) {
	name, err := e.follow(resolvConf)
	if err != nil {
		return nil, err
	}
	f := &confFile{name: name, path: e.path(name), mounted: e.mounted(name)}
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.absent = true
		if _, err := os.Stat(filepath.Dir(f.path)); err != nil {
			return nil, fmt.Errorf("%s is a link to %s, of which not even the folder exists", resolvConf, name)
		}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxConf:
		return nil, fmt.Errorf("%s is not a resolv.conf: %v, %d bytes", name, info.Mode(), info.Size())
	default:
		b, err := os.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		f.text = string(b)
	}
	f.backup = f.path + ".before-gridwire"
	if f.mounted && info != nil {
		// Several of these, of other containers or network namespaces, may have the same folder beside them.
		f.backup += fmt.Sprintf("-%x", inode(info))
	}
	return f, nil
}

func (f *confFile) altered(iface string) error {
	err := fmt.Errorf("gridwire's lines for %s in %s are not as it wrote them: %w; gridwire leaves them alone: "+
		"take out all from \"%s\" to \"%s\" by hand", iface, f.name, ErrChanged, strings.TrimSpace(opener), strings.TrimSpace(closer))
	if _, ok := f.kept(); ok {
		err = fmt.Errorf("%w (the original is in %s)", err, f.backup)
	}
	return err
}

// torn reports what neither we nor anybody else writes: the file of a machine whose power went at the wrong moment.
func (f *confFile) torn() bool {
	if f.absent || strings.Contains(f.text, "\x00") {
		return true
	}
	for _, m := range marks(f.text) {
		if m.body == "" && !m.intact && m.start == 0 && !strings.Contains(f.text, closer) {
			return true
		}
	}
	return f.text == ""
}

// kept returns the original that lies beside the file.
func (f *confFile) kept() (string, bool) {
	b, err := os.ReadFile(f.backup)
	return string(b), err == nil
}

// keep puts the original beside the file: the very file if it is to be replaced, so that nothing of it is lost, a copy if not.
func (f *confFile) keep(base string) error {
	if err := f.forget(); err != nil {
		return err
	}
	if base == f.text && !f.mounted && os.Link(f.path, f.backup) == nil {
		return syncFolder(filepath.Dir(f.path))
	}
	return replace(f.backup, base, f.path)
}

func (f *confFile) forget() error {
	if err := os.Remove(f.backup); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rights(err)
	}
	return nil
}

// write gives the file a new content if it still has the one that was read.
func (f *confFile) write(text string) error {
	if text == f.text && !f.absent {
		return nil
	}
	if now, err := os.ReadFile(f.path); err == nil && string(now) != f.text {
		return fmt.Errorf("%s: %w, this very moment", f.name, ErrChanged)
	}
	if f.mounted {
		return overwrite(f.path, text)
	}
	err := replace(f.path, text, f.path)
	if errors.Is(err, syscall.EBUSY) { // a mount point after all
		return overwrite(f.path, text)
	}
	return err
}

// putBack takes our block out, and says what it did; nothing if there was nothing to do.
func (f *confFile) putBack(iface string) (note string, err error) {
	kept, haveKept := f.kept()
	m, ok := find(f.text, iface)
	switch {
	case !ok && haveKept && len(marks(f.text)) == 0:
		return fmt.Sprintf("%s: another program has written it anew since; left as it is", f.name), f.forget()
	case !ok:
		return "", nil
	case !m.intact:
		return "", f.altered(iface)
	}
	base := strip(f.text, m)
	switch {
	case base == "" && strings.HasPrefix(m.body, wasAbsent):
		if err := os.Remove(f.path); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s: removed, as there was none before", f.name), nil
	case haveKept && kept == base && !f.mounted:
		err := os.Rename(f.backup, f.path)
		if err == nil {
			return fmt.Sprintf("%s: the original is back", f.name), syncFolder(filepath.Dir(f.path))
		}
		if !errors.Is(err, syscall.EBUSY) { // a mount point after all
			return "", err
		}
	}
	if err := f.write(base); err != nil {
		return "", err
	}
	if haveKept && kept == base {
		return fmt.Sprintf("%s: as it was before", f.name), f.forget()
	}
	return fmt.Sprintf("%s: another program has changed it since; gridwire's lines are out, the rest is left as it is", f.name), f.forget()
}

func (e Env) alive(iface string) bool { return e.Exists != nil && e.Exists(iface) }

func (e Env) hostname() string {
	name, _ := e.read("/proc/sys/kernel/hostname")
	return name
}

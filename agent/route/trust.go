package route

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Trust names the further interfaces that may carry overlay addresses (workloads'), in place of those named before. An interface that does
// not exist (yet) does no harm: the guard goes by names. Packets in between are never unguarded.
func (r *Router) Trust(ifaces []string) error {
	for _, name := range ifaces {
		if name == "" || len(name) >= unix.IFNAMSIZ {
			return fmt.Errorf("letting interface %q carry overlay addresses: a name has 1 to %d bytes", name, unix.IFNAMSIZ-1)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("letting %v carry overlay addresses: interface %s is closed", ifaces, r.cfg.Interface)
	}
	if slices.Equal(r.cfg.Trusted, ifaces) {
		return nil
	}
	old := r.cfg.Trusted
	r.cfg.Trusted = slices.Clone(ifaces)
	if err := r.guard().set(); err != nil {
		r.cfg.Trusted = old
		return err
	}
	return nil
}

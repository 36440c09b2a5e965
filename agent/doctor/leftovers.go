package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/gridwire/gridwire/agent/route"
	attached "github.com/gridwire/gridwire/agent/workload/host"
	"github.com/gridwire/gridwire/mesh/store"
)

// Leftovers are what agents that were killed, or lost their power, left in the operating system, names apart (see Resolver). The next agent
// with the same interface replaces it all; who does not start one again wants to be rid of it.
type Leftovers struct {
	What   []string // phrases
	Remove func() error
}

func (m Machine) leftovers(s Subject) Result {
	r := Result{Topic: "leftovers"}
	found, err := m.Left(s.State, s.Socket)
	if len(found.What) > 0 {
		r.Fix = func(context.Context) error { return found.Remove() }
		return fail(r, Warn, "a killed agent left "+strings.Join(found.What, "; "), "gridwire doctor --fix, as root, removes it; so does the agent when it starts")
	}
	if err != nil && !m.Root {
		return ok("leftovers", "no killed agent left anything that this user can see; only root sees nftables")
	}
	if err != nil {
		return fail(r, Warn, "what killed agents left cannot be seen: "+err.Error(), "")
	}
	return ok("leftovers", "no killed agent left anything")
}

// uapiFolder is where WireGuard's tools look for the sockets of userspace implementations.
const uapiFolder = "/var/run/wireguard/"

func left(state, socket string) (Leftovers, error) {
	found, err := route.FindLeft()
	out := Leftovers{What: found.What()}
	tables, terr := attached.Left()
	for _, name := range tables {
		out.What = append(out.What, "the nftables table of workloads of "+name)
	}
	settings := leftSettings(state)
	if len(settings) > 0 {
		out.What = append(out.What, "kernel settings: "+strings.Join(settings, ", "))
	}
	var sockets []string
	for _, name := range found.Interfaces() {
		sockets = append(sockets, uapiFolder+name+".sock")
	}
	sockets = deadSockets(append(sockets, socket))
	if len(sockets) > 0 {
		out.What = append(out.What, "sockets: "+strings.Join(sockets, ", "))
	}
	out.Remove = func() error {
		errs := []error{found.Remove()}
		for _, name := range tables {
			errs = append(errs, attached.RemoveLeft(name))
		}
		if len(settings) > 0 {
			errs = append(errs, restoreSettings(state))
		}
		for _, path := range deadSockets(sockets) {
			errs = append(errs, os.Remove(path))
		}
		return errors.Join(errs...)
	}
	return out, errors.Join(err, terr)
}

// leftSettings is empty while an agent uses the folder: then it is that agent that needs them.
func leftSettings(state string) []string {
	st, err := store.OpenShared(state) // first, because the other way to open it makes the lock's file where there is none
	if err != nil || len(route.LeftSettings(st)) == 0 {
		return nil
	}
	if st, err = store.Open(state); err != nil {
		return nil
	}
	defer st.Close()
	return route.LeftSettings(st)
}

func restoreSettings(state string) error {
	st, err := store.Open(state)
	if err != nil {
		return err
	}
	defer st.Close()
	return route.RestoreSettings(st)
}

// deadSockets returns those of the paths at which nobody listens any more.
func deadSockets(paths []string) (out []string) {
	for _, path := range paths {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			out = append(out, path)
		}
	}
	return out
}

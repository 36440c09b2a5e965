//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/config"
)

// helperStart is a way to have the root helper on a machine.
type helperStart func(*pc)

// helper starts it; it ends with the test, and must not have complained.
func (p *pc) helper(start helperStart) {
	p.w.Helper()
	start(p)
	p.w.eventually(5*time.Second, "the helper listens", func() bool {
		_, err := p.Exec(p.w.ctx(5*time.Second), "test", "-S", config.DefaultResolverHelper)
		return err == nil
	})
}

// asHelper is the program that becomes the helper as deploy/gridwire-resolver@.service starts it: root with exactly the unit's capabilities.
func asHelper(t *testing.T) []string {
	t.Helper()
	bounds := regexp.MustCompile(`\nCapabilityBoundingSet=(.*)\n`).FindStringSubmatch(deployed(t, "gridwire-resolver@.service"))
	if bounds == nil {
		t.Fatal("the helper's unit does not bound its capabilities")
	}
	set := "-all"
	for _, c := range strings.Fields(bounds[1]) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return []string{"setpriv", "--no-new-privs", "--bounding-set", set, "--inh-caps", "-all", "--", binary, "resolver"}
}

// bySystemd listens as gridwire-resolver.socket does, and starts a helper for each connection, which is its standard input.
func bySystemd(p *pc) {
	p.w.Helper()
	unit := deployed(p.w.T, "gridwire-resolver.socket")
	for _, want := range []string{"\nListenStream=" + config.DefaultResolverHelper + "\n", "\nSocketMode=0660\n", "\nSocketGroup=gridwire\n", "\nAccept=yes\n"} {
		if !strings.Contains(unit, want) {
			p.w.Fatalf("the unit is not what this test does; want %q", want)
		}
	}
	path := filepath.Join(filepath.Dir(p.h.Socket()), "helper.sock") // a folder that the machine's /run has, too
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err == nil {
		err = os.Chown(path, 0, serviceGID)
	}
	if err != nil {
		p.w.Fatal(err)
	}
	must(p.Exec(p.w.ctx(5*time.Second), "ln", "-s", path, config.DefaultResolverHelper))(p.w)
	as := asHelper(p.w.T)
	var helpers sync.WaitGroup
	helpers.Go(func() { // the cleanup waits for it, and for each
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			stdin, err := conn.(*net.UnixConn).File()
			_ = conn.Close()
			if err != nil {
				p.w.Error(err)
				return
			}
			helpers.Go(func() {
				defer stdin.Close()
				cmd := p.Command(context.Background(), as[0], as[1:]...)
				cmd.Stdin = stdin
				if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "level=WARN") {
					p.w.Errorf("the helper: %v\n%s", err, out)
				}
			})
		}
	})
	p.w.Cleanup(func() {
		_ = l.Close()
		if a := p.w.agents[p.h]; a != nil && a.Running() {
			a.Kill() // a helper ends with its agent
		}
		helpers.Wait()
	})
}

// byHand starts the helper that listens itself, for machines without systemd.
func byHand(p *pc) {
	p.w.Helper()
	cmd := p.Command(context.Background(), binary, "resolver", "--listen", config.DefaultResolverHelper, "--group", fmt.Sprint(serviceGID))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		p.w.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // the cleanup waits for it
	p.w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil || strings.Contains(log.String(), "level=WARN") {
			p.w.Errorf("the helper: %v\n%s", err, log.String())
		}
	})
}

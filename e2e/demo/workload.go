//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gridwire/gridwire/e2e/lab"
)

// site is what bob publishes, and the name under which the laptop finds it.
const site = "web.bob.farm.internal"

// hotelDNS is the laptop's name server as the hotel gave it. It knows nothing of the mesh, and here it does not even answer.
const hotelDNS = "nameserver 192.0.2.53\n"

// serve is the web server in the workload's namespace (demo -serve): it says who asks whom, as it sees it.
func serve(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "Hello from bob's barn.\nfrom %s\nto   %s\n", host(r.RemoteAddr), host(local.String()))
	})}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	fmt.Println("serving")
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func host(hostport string) string {
	h, _, _ := strings.Cut(strings.TrimPrefix(hostport, "["), "]")
	return h
}

// barn is where bob's web server stands.
type barn struct{ *demo }

// publish is act 4.
func (d barn) publish(ctx context.Context) error {
	d.out.heading("4. Bob publishes a web server; the laptop types its name")
	d.out.note("The web server runs on bob's machine in a network namespace of its own, as a container or a VM would: behind bob's home router.")
	d.out.blank()
	web, err := d.bob.Inner("web")
	if err != nil {
		return err
	}
	out, err := d.gridwireAs(ctx, d.bob, "gridwire workload add web --netns web --port http=80/tcp", "workload", "add", "web", "--netns", web.Path(), "--port", "http=80/tcp")
	if err != nil {
		return err
	}
	d.out.text("       " + out)
	if err := d.serveIn(ctx, web); err != nil {
		return err
	}
	_, text, ok := strings.Cut(out, "  ")
	addr, err := netip.ParseAddr(strings.Fields(text + " ?")[0])
	if !ok || err != nil {
		return fmt.Errorf("gridwire workload add says %q: no address in it", out)
	}
	d.out.blank()
	d.out.note("The laptop's agent has pointed the laptop's resolver at itself for farm.internal (%s). So, with nothing configured by hand:", "here: /etc/resolv.conf")
	d.out.blank()
	d.out.command("laptop", "getent hosts "+site, "")
	if err := d.until(ctx, "the laptop's resolver knows "+site, func() bool {
		found, err := d.laptop.pc.Exec(ctx, "getent", "ahostsv6", site)
		return err == nil && strings.HasPrefix(string(found), addr.String()+" ")
	}); err != nil {
		return err
	}
	d.out.text(fmt.Sprintf("       %s  %s", addr, site))
	d.out.command("laptop", "curl http://"+site, "")
	page, took, err := d.fetch(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(page) {
		d.out.text("       " + line)
	}
	st, err := d.laptop.status(ctx)
	if err != nil {
		return err
	}
	own := netip.MustParsePrefix(st.Self.Addresses[0]).Addr() // IPv6 comes first
	if want := fmt.Sprintf("from %s\nto   %s\n", own, addr); !strings.HasSuffix(page, want) {
		return fmt.Errorf("the web server saw other addresses than the overlay's own, which are\n%s", want)
	}
	d.out.fact("laptop → web", "both ends see the overlay's own addresses: no NAT in between", seconds(took))
	d.out.note("Nobody opened a port or configured a name.")
	return nil
}

// serveIn starts the web server.
func (d barn) serveIn(ctx context.Context, web *lab.Namespace) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	d.web = web.Command(context.WithoutCancel(ctx), self, "-serve", "[::]:80")
	ready := make(chan struct{})
	d.web.Stdout = &firstWrite{done: ready}
	if err := d.web.Start(); err != nil {
		return fmt.Errorf("start the web server: %w", err)
	}
	select {
	case <-ready:
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("the web server did not start")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// firstWrite closes done when something is written. It is written to by one goroutine.
type firstWrite struct{ done chan struct{} }

func (f *firstWrite) Write(b []byte) (int, error) {
	if f.done != nil {
		close(f.done)
		f.done = nil
	}
	return len(b), nil
}

// fetch is the laptop's curl.
func (d barn) fetch(ctx context.Context) (page string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	out, err := d.laptop.pc.Exec(ctx, "curl", "-sS", "--fail", "http://"+site)
	return string(out), time.Since(began), err
}

// stopWeb ends the web server. Killed, it has nothing to say.
func stopWeb(web *exec.Cmd) {
	if web != nil && web.Process != nil {
		_ = web.Process.Kill()
		_ = web.Wait()
	}
}

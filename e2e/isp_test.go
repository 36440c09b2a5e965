//go:build linux

package e2e

import (
	"net"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
)

// isp is a name server outside of the mesh, which knows www.example.org.
type isp struct {
	addr  string
	asked atomic.Int32
	ours  atomic.Int32 // questions for names of the mesh, which are none of its business
}

const (
	www     = "www.example.org"
	wwwAddr = "192.0.2.80"
)

func (w *world) isp(name string) *isp {
	w.Helper()
	h := w.public(name)
	s := &isp{addr: h.Addr().String()}
	var udp net.PacketConn
	var tcp net.Listener
	err := h.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp", s.addr+":53"); err == nil {
			tcp, err = net.Listen("tcp", s.addr+":53")
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		done, started := make(chan error, 1), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { done <- srv.ActivateAndServe() }() // the cleanup waits for it
		select {
		case <-started: // before that, Shutdown does nothing, and a test that ends at once would wait for ever
		case err := <-done:
			w.Fatal(err)
		}
		w.Cleanup(func() {
			_ = srv.Shutdown()
			if err := <-done; err != nil {
				w.Error(err)
			}
		})
	}
	return s
}

// ServeDNS implements dns.Handler.
func (s *isp) ServeDNS(out dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	ask := q.Question[0]
	s.asked.Add(1)
	if strings.HasSuffix(ask.Name, "farm.internal.") {
		s.ours.Add(1)
	}
	switch {
	case ask.Name != www+".":
		r.Rcode = dns.RcodeNameError
	case ask.Qtype == dns.TypeA:
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ask.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(wwwAddr)}}
	}
	_ = out.WriteMsg(r)
}

//go:build linux

package dns

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestInterfaceMadeAnew: a workload's interface that went and came again under its name is another one, and is served.
func TestInterfaceMadeAnew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	type result struct{ skip, err error }
	done := make(chan result, 1)
	go func() { // the test waits for it; its thread is thrown away, because it is never unlocked
		runtime.LockOSThread()
		var r result
		defer func() { done <- r }()
		if r.skip = unix.Unshare(unix.CLONE_NEWNET); r.skip != nil {
			return
		}
		r.err = remade(t)
	}()
	r := <-done
	if r.skip != nil {
		t.Skip(r.skip)
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
}

func remade(t *testing.T) error {
	s, err := New(Config{Zone: func() *Zone { return nil }})
	if err != nil {
		return err
	}
	defer s.Close()
	on := []Bind{{netip.MustParseAddrPort("127.0.0.1:5300"), "web0"}}
	if err := s.Listen(on); err == nil || s.Answers(on[0]) {
		t.Errorf("an interface that is not there: %v", err)
	}
	var sockets [2]*socket
	for i := range sockets {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "web0"}, PeerName: "web1"}); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo) // the address is its
		}
		if err != nil {
			return err
		}
		for range 2 { // the second time nothing changes
			if err := s.Listen(on); err != nil {
				return err
			}
			if sockets[i] != nil && sockets[i] != s.doors.bound[on[0]] {
				t.Error("bound again, though nothing has changed")
			}
			sockets[i] = s.doors.bound[on[0]]
		}
		link, err := net.InterfaceByName("web0")
		if err != nil {
			return err
		}
		if sockets[i].index != link.Index {
			t.Errorf("bound to interface %d, web0 is %d", sockets[i].index, link.Index)
		}
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "web0"}}); err != nil {
			return err
		}
	}
	if sockets[0] == sockets[1] {
		t.Error("still bound to the interface that is gone")
	}
	return nil
}

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Detach removes an interface that Attach made, from within the namespace: for when no agent is there to remove the other end. It is no error
// if there is no such namespace or interface.
func Detach(netns, ifname string) error {
	if netns == "" {
		return nil
	}
	ns, err := openNamespace(&netns)
	if err != nil {
		return nil // gone, and the interface with it; or none, and then nothing of ours is in it
	}
	defer ns.Close()
	return inside(ns, func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil || l.Type() != "veth" {
			return nil
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s from %s: %w", ifname, netns, err)
		}
		return nil
	})
}

// Check says what is missing of an interface that Attach made; nil: nothing.
func Check(netns, ifname string, addresses []string) error {
	ns, err := openNamespace(&netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return inside(ns, func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("%s has no interface %s: %w", netns, ifname, err)
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("read the addresses of %s in %s: %w", ifname, netns, err)
		}
		for _, s := range addresses {
			want, err := netip.ParsePrefix(s)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
				got, ok := netip.AddrFromSlice(a.IP)
				return ok && got.Unmap() == want.Addr()
			}) {
				return fmt.Errorf("%s in %s has lost its address %v", ifname, netns, want)
			}
		}
		return nil
	})
}

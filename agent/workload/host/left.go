package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gridwire/gridwire/agent/nft"
	"github.com/gridwire/gridwire/agent/workload"
)

// Left returns the interfaces whose table of what workloads may send has outlived them and every workload: as long as one is attached, its
// interface stays, and the table with it.
func Left() ([]string, error) {
	tables, err := nft.Ours()
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this machine's interfaces: %w", err)
	}
	var out []string
	for _, t := range tables {
		name, whole := strings.CutSuffix(strings.TrimPrefix(t.Name, nft.Prefix), "_workloads")
		used := func(l netlink.Link) bool {
			return l.Attrs().Name == name || strings.HasPrefix(l.Attrs().Name, workload.InterfacePrefix(name))
		}
		if whole && !slices.ContainsFunc(links, used) {
			out = append(out, name)
		}
	}
	return out, nil
}

// RemoveLeft removes the table of one of them.
func RemoveLeft(iface string) error { return removeFilter(iface) }

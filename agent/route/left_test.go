package route

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOwnKind: our rules are known by their numbers, and nobody else's is taken for one.
func TestOwnKind(t *testing.T) {
	r := Router{cfg: Config{Interface: "gw7", Mark: 1}}
	var all []netlink.Rule
	for _, rule := range r.rules(netlink.FAMILY_V4) {
		all = append(all, *rule)
	}
	small := netlink.NewRule()
	small.Priority, small.Table = ownPreference("gw7"), ownTable("gw7")
	all = append(all, *small)
	for _, rule := range all {
		if !ownKind(rule, all) {
			t.Errorf("ours is not known: %v", rule)
		}
	}
	suppressed := *netlink.NewRule()
	suppressed.Priority, suppressed.Table, suppressed.SuppressPrefixlen = 32764, unix.RT_TABLE_MAIN, 0 // wg-quick's
	vpn := *netlink.NewRule()
	vpn.Priority, vpn.Table = 32765, 51820
	same := *netlink.NewRule()
	same.Priority, same.Table, same.SuppressPrefixlen = all[0].Priority-2, unix.RT_TABLE_MAIN, defaultBits
	near := all[1]
	near.Priority++
	others := []netlink.Rule{suppressed, vpn, same, near}
	for _, rule := range others {
		if ownKind(rule, append(others, all...)) {
			t.Errorf("somebody else's is taken for ours: %v", rule)
		}
	}
}

package route

import (
	"net/netip"
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

// TestLeftOfAnotherInterface: an agent that starts under another name removes what the killed one left, and nothing of one that runs.
func TestLeftOfAnotherInterface(t *testing.T) {
	tunnel(t, "gw0")
	tunnel(t, "gw1")
	alive := mustUp(t, config("gw1"))
	if err := alive.Route([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Fatal(err)
	}
	killed, err := Up(config("gw0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Route([]netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}); err != nil {
		t.Fatal(err)
	}
	if left, err := FindLeft(); err != nil || len(left.What()) != 0 {
		t.Fatalf("of two that run: %q, %v", left.What(), err)
	}
	killed.closed = true
	if err := netlink.LinkDel(killed.link); err != nil { // as the kernel does when its process dies
		t.Fatal(err)
	}
	left, err := FindLeft()
	if err != nil || len(left.tables) != 3 || len(left.rules) != 4 {
		t.Fatalf("left: %q, %v", left.What(), err)
	}
	tunnel(t, "gw2")
	mustUp(t, config("gw2"))
	if left, err := FindLeft(); err != nil || len(left.What()) != 0 {
		t.Errorf("after the start of another: %q, %v", left.What(), err)
	}
	for _, table := range append(guardTables("gw1"), mssTable("gw1")) {
		if missing, err := lacksTable(table); err != nil || missing {
			t.Errorf("table %s of one that runs is gone: %v", table.Name, err)
		}
	}
	if missing, err := lacksRules(alive.rules(netlink.FAMILY_V4)); err != nil || missing {
		t.Errorf("the rules of one that runs are gone: %v", err)
	}
}

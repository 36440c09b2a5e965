// Package nft is what the agent's nftables tables have in common: whether one is there, its removal, and how the kernel writes an interface's
// name. It owns no table and never decides what stands in one: the leak guard and MSS clamp are agent/route's, the filter agent/workload/host's.
package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Has reports whether the table is there.
func Has(t *nftables.Table) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	return slices.ContainsFunc(all, func(o *nftables.Table) bool { return o.Name == t.Name }), nil
}

// Remove removes the table; it is no error if there is none.
func Remove(t *nftables.Table) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(t) // deleting a table that does not exist fails
	c.DelTable(t)
	return c.Flush()
}

// IfName is the kernel's fixed-size form of an interface name.
func IfName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

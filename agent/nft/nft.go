// Package nft is what the agent's nftables tables have in common: how their names begin, which of them are there, replacing and removing one, and
// how the kernel writes an interface's name. It owns no table and never decides what stands in one: the leak guard and MSS clamp are agent/route's, the filter agent/workload/host's.
package nft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Prefix begins the names of all of the agent's tables.
const Prefix = "gridwire_"

// Ours returns the tables, of every family and interface, whose names begin with Prefix.
func Ours() ([]*nftables.Table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	all, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	return slices.DeleteFunc(all, func(t *nftables.Table) bool { return !strings.HasPrefix(t.Name, Prefix) }), nil
}

// Has reports whether all of these tables of ours are there.
func Has(tables ...*nftables.Table) (bool, error) {
	there, err := Ours()
	if err != nil {
		return false, err
	}
	for _, t := range tables {
		if !slices.ContainsFunc(there, func(o *nftables.Table) bool { return o.Family == t.Family && o.Name == t.Name }) {
			return false, nil
		}
	}
	return true, nil
}

// Replace adds an empty table to the transaction, in place of any earlier one.
func Replace(c *nftables.Conn, t *nftables.Table) {
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
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

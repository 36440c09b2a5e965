package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/gridwire/gridwire/agent/nft"
)

// Other programs take away what is not theirs. `nft flush ruleset`, with which reloading a firewall often begins, takes the leak guard;
// systemd-networkd removes routing rules that it does not know when it starts (ManageForeignRoutingPolicyRules=); forwarding is switched off by
// `sysctl --system`, and by another network's agent on this machine when it was the first that needed it, and ends.

// keepRest is how long after the last change one looks: the other program may be in the middle of it. It bounds, too, how often one that
// insists on the contrary is contradicted.
const keepRest = 500 * time.Millisecond

// quietFor is for how long after a complaint further ones are of no use to anybody.
const quietFor = time.Minute

// Keep puts back what other programs take away, until ctx ends.
func (r *Router) Keep(ctx context.Context) error {
	changes, err := changesOfOthers(ctx)
	if err != nil {
		r.log.Warn("will not notice if another program removes the leak guard, routing rules or forwarding", "err", err)
		<-ctx.Done()
		return nil
	}
	var said time.Time
	look := func() {
		what, err := mend(r)
		if (len(what) > 0 || err != nil) && time.Since(said) > quietFor {
			said = time.Now()
			r.log.Warn("another program removed what this node needs; it is there again, unless an error is named", "what", what, "err", err)
		}
	}
	look() // what went before one was told
	for range changes {
		select {
		case <-ctx.Done():
			continue // until the subscriptions have ended
		case <-time.After(keepRest):
		}
		look()
	}
	return nil
}

// mend puts back what is missing and says what that was.
func mend(r *Router) (what []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil
	}
	if _, err := net.InterfaceByName(r.cfg.Interface); err != nil {
		return nil, nil // the tunnel's owner speaks of that
	}
	var errs []error
	again := func(name string, missing bool, err error, do func() error) {
		if err == nil && missing {
			what = append(what, name)
			err = do()
		}
		errs = append(errs, err)
	}
	missing, err := lacksTable(guardTables(r.cfg.Interface)...)
	again("leak guard", missing, err, func() error { return r.guard().set() })
	if r.clamped {
		missing, err = lacksTable(mssTable(r.cfg.Interface))
		again("segment sizes", missing, err, func() error { return clampMSS(r.cfg.Interface) })
	}
	if len(r.routed) > 0 {
		missing, err = lacksRules(append(r.rules(netlink.FAMILY_V4), r.rules(netlink.FAMILY_V6)...))
		again("routing rules", missing, err, r.addRules)
	}
	if r.limits.rule {
		missing, err = lacksRules([]*netlink.Rule{limiter{r}.theRule()})
		again("routing rule for small paths", missing, err, limiter{r}.addOwnRule)
	}
	again("forwarding", len(r.forwards.users) > 0 && !r.forwards.on(), nil, r.forwards.start)
	return what, errors.Join(errs...)
}

// lacksTable reports whether one of them is not there.
func lacksTable(tables ...*nftables.Table) (bool, error) {
	there, err := nft.Has(tables...)
	return err == nil && !there, err
}

// lacksRules reports whether one of the rules is not there. Of a family that this kernel does not have, none is.
func lacksRules(want []*netlink.Rule) (bool, error) {
	for _, rule := range want {
		all, err := netlink.RuleList(rule.Family)
		switch {
		case errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
			continue
		case errors.Is(err, netlink.ErrDumpInterrupted):
			return false, nil // another change: there will be another look
		case err != nil:
			return false, fmt.Errorf("list routing rules: %w", err)
		}
		if !slices.ContainsFunc(all, func(o netlink.Rule) bool { return o.Priority == rule.Priority && o.Table == rule.Table }) {
			return true, nil
		}
	}
	return false, nil
}

// changesOfOthers tells of changes of forwarding (RTM_NEWNETCONF in linux/netconf.h), of routing rules and of nftables until ctx ends; then it is
// closed. It holds one message: there is no more to know than that one should look.
func changesOfOthers(ctx context.Context) (<-chan struct{}, error) {
	routing, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of routing: %w", err)
	}
	filters, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		routing.Close()
		return nil, fmt.Errorf("subscribe to changes of nftables: %w", err)
	}
	changes := make(chan struct{}, 1)
	var readers sync.WaitGroup
	for _, s := range []*nl.NetlinkSocket{routing, filters} {
		context.AfterFunc(ctx, s.Close) // ends Receive
		readers.Go(func() {
			for {
				_, _, err := s.Receive()
				if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) || ctx.Err() != nil {
					return
				}
				select { // after any other error (messages were lost) too
				case changes <- struct{}{}:
				default:
				}
			}
		})
	}
	go func() { // whoever reads changes waits for it
		readers.Wait()
		close(changes)
	}()
	return changes, nil
}

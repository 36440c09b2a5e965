package host

import (
	"fmt"

	"github.com/google/nftables"
)

// Obstacle names a firewall of somebody else's that drops what passes through this machine unless one of its rules says otherwise, as Docker's
// does: it may cut workloads off, and nothing of ours can overrule it. "" if there is none. iptables shows here, in its nftables form.
func Obstacle() string {
	c, err := nftables.New()
	if err != nil {
		return ""
	}
	chains, err := c.ListChains()
	if err != nil {
		return ""
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		switch ch.Table.Family {
		case nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
			return fmt.Sprintf("table %s, chain %s", ch.Table.Name, ch.Name)
		}
	}
	return ""
}

package agent

import (
	"context"

	"github.com/gridwire/gridwire/agent/api"
)

// gauges are for metrics.
func (x *names) gauges() (serving, configured *bool) {
	s, c := x.serving.Load() != nil, x.resolver.state().Configured
	return &s, &c
}

// warning is for status: a sentence, or nothing.
func (x *names) warning() []string {
	if reason := x.resolver.state().Reason; reason != "" {
		return []string{"this machine's resolver does not ask this node for the network's names: " + reason}
	}
	return nil
}

// namesStatus says how names are, for doctor.
func (n report) namesStatus(context.Context) (*api.Names, error) {
	st := n.names.resolver.state()
	out := &api.Names{
		Domain: n.root.Network.Domain, Serve: n.cfg.DNS.Serve, Serving: []string{}, Forwarding: []string{}, LeftOut: []string{},
		Configure: n.cfg.DNS.Serve && n.cfg.DNS.Configure, Resolver: st.Manager, Configured: st.Configured, Reason: st.Reason, Helper: st.Helper,
	}
	if on := n.names.serving.Load(); on != nil {
		for _, a := range *on {
			out.Serving = append(out.Serving, a.String())
		}
	}
	_, to := n.names.wanted()
	for _, a := range to {
		out.Forwarding = append(out.Forwarding, a.String())
	}
	if z := n.names.zone.Load(); z != nil {
		out.LeftOut = append(out.LeftOut, z.LeftOut()...)
	}
	out.Settled = !out.Serve || n.names.of.Load() == n.dir.View() && (!out.Configure || out.Configured || out.Reason != "")
	return out, nil
}

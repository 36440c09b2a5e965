package agent

import (
	"context"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/wire"
)

// handlers answer the control socket. Most need a node; before this machine is a member they say so.
func (a *Agent) handlers() api.Handlers {
	return api.Handlers{
		Status: func(ctx context.Context) (*api.Status, error) {
			n := a.node.Load()
			if n == nil {
				return &api.Status{Self: api.Self{Interface: a.cfg.Interface, NAT: "unknown", Version: Version, Addresses: []string{}}, Peers: []api.Peer{}}, nil
			}
			return report{n}.status(ctx)
		},
		Members: member0(a, report.members),
		Issuers: member0(a, report.issuers),
		Invite:  member1(a, admin.invite),
		Join:    a.joinRequested,
		Leave: func(ctx context.Context) error {
			n := a.node.Load()
			if n == nil {
				return errNotMember
			}
			if err := (admin{n}).leave(ctx); err != nil {
				return err
			}
			a.awaitFree(ctx)
			return nil
		},
		Revoke:       named(a, admin.revoke),
		IssuerAdd:    named(a, admin.addIssuer),
		IssuerRemove: named(a, admin.removeIssuer),
		Want:         named(a, admin.want),
		Diagnosis:    a.diagnosis(),
		Workloads:    a.workloadHandlers(),
		History:      api.HistoryHandlers{Links: member1(a, remembering.history)},
		Devices:      api.Devices{Export: member1(a, exporter.export), Gateway: member1(a, exporter.turnGateway)},
		Names:        api.NamesHandlers{Names: member0(a, report.namesStatus)},
		Usage:        api.UsageHandlers{Report: member1(a, report.usageReport)},
	}
}

// The functions below call f on the node, or say that there is none.

func member0[N ~struct{ *node }, R any](a *Agent, f func(N, context.Context) (R, error)) func(context.Context) (R, error) {
	return func(ctx context.Context) (R, error) {
		n := a.node.Load()
		if n == nil {
			var none R
			return none, errNotMember
		}
		return f(N{n}, ctx)
	}
}

func member1[N ~struct{ *node }, Q, R any](a *Agent, f func(N, context.Context, Q) (R, error)) func(context.Context, Q) (R, error) {
	return func(ctx context.Context, q Q) (R, error) {
		return member0(a, func(n N, ctx context.Context) (R, error) { return f(n, ctx, q) })(ctx)
	}
}

func named(a *Agent, f func(admin, context.Context, api.NameRequest) error) func(context.Context, api.NameRequest) error {
	return func(ctx context.Context, r api.NameRequest) error {
		_, err := member1(a, func(n admin, ctx context.Context, r api.NameRequest) (struct{}, error) {
			return struct{}{}, f(n, ctx, r)
		})(ctx, r)
		return err
	}
}

// awaitFree returns when the node that left has ended, so that the next command may join or found another network, and finds no interface. A
// node takes at most stopLimit for it.
func (a *Agent) awaitFree(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*stopLimit)
	defer cancel()
	select {
	case a.free <- struct{}{}:
	case <-ctx.Done():
	}
}

// joinRequested hands a join to the goroutine that owns the state, and waits for its outcome.
func (a *Agent) joinRequested(ctx context.Context, r api.JoinRequest) (*api.JoinResponse, error) {
	if n := a.node.Load(); n != nil {
		return nil, alreadyMember(n.membership.Load())
	}
	if _, err := wire.DecodeToken(r.Token); err != nil {
		return nil, &api.Error{Code: api.CodeRefused, Message: err.Error()}
	}
	ask := joinAsk{req: r, answer: make(chan joinAnswer, 1)}
	select {
	case a.join <- ask:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(10 * time.Second):
		return nil, &api.Error{Code: api.CodeTimeout, Message: "the agent is busy with another join"}
	}
	select {
	case ans := <-ask.answer:
		return ans.resp, asRefusal(ans.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// asRefusal gives an issuer's no the code that the command line turns into its exit status.
func asRefusal(err error) error {
	if !enrol.Final(err) {
		return err
	}
	return &api.Error{Code: api.CodeRefused, Message: err.Error()}
}

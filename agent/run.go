// Package agent builds the parts of a node, connects them, runs them and stops them in reverse order.
//
// It owns no state of its own: membership is mesh's, the internet is nat's, links and the operating system are its own packages'. State
// goes down by plain call as a whole snapshot; news comes up through mailboxes; nothing goes sideways.
package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/logring"
	"github.com/gridwire/gridwire/agent/sdnotify"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/store"
	"github.com/gridwire/gridwire/mesh/wire"
)

// Agent is one running agent: a control socket, and a node once this machine is a member.
type Agent struct {
	cfg  *config.Config
	log  *slog.Logger
	node atomic.Pointer[node] // nil while this machine is no member
	join chan joinAsk
	free chan struct{} // taken from while this machine is no member and nothing of a node is left
	logs *logring.Ring
}

// joinAsk is a join by way of the control socket. The answer comes when the node runs, or with the error.
type joinAsk struct {
	req    api.JoinRequest
	answer chan joinAnswer
}

type joinAnswer struct {
	resp *api.JoinResponse
	err  error
}

// Run runs the agent until ctx ends. It returns nil after an orderly end.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	log, logs := keepLines(log)
	a := &Agent{cfg: cfg, log: log, join: make(chan joinAsk), free: make(chan struct{}), logs: logs}
	h := a.handlers()
	page, err := newPage(h, cfg.Page, log)
	if err != nil {
		return err
	}
	h.Page = page.handlers()
	srv := api.New(cfg.Socket, h, log)
	l, err := srv.Listen()
	if err != nil {
		return err
	}
	err = runParts(ctx, log, []part{
		{"control socket", func(ctx context.Context) error { return srv.Serve(ctx, l) }},
		{"health page", page.run},
		{"", a.nodes},
	})
	_ = sdnotify.Send("STOPPING=1")
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// nodes runs one node after the other: a machine that left may join again.
func (a *Agent) nodes(ctx context.Context) error {
	token := a.cfg.Token
	for {
		err := a.oneNode(ctx, token)
		token = "" // once is enough
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errStop) {
			return err
		}
	}
}

func (a *Agent) oneNode(ctx context.Context, token string) error {
	restoreResolver(ctx, a.cfg, a.log)
	st, err := store.Open(a.cfg.State)
	if err != nil {
		return err
	}
	opened := st
	defer func() { _ = opened.Close() }()
	m, err := enrol.Load(st)
	var ask *joinAsk
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case token == "":
		// Others (gridwire init) must be able to write the state meanwhile.
		_ = st.Close()
		if st, m, ask, err = a.wait(ctx); err != nil {
			return err
		}
		if st == nil {
			return nil // ctx ended
		}
		defer func() { _ = st.Close() }()
	}
	b, m, err := a.enrolled(ctx, st, m, ask, token)
	if err != nil {
		if ask == nil {
			return err
		}
		ask.answer <- joinAnswer{err: err}
		return errStop // the next round waits again
	}
	return a.runNode(ctx, st, b, m, ask)
}

// enrolled returns the shared socket's parts, and the membership, which it obtains first if need be.
func (a *Agent) enrolled(ctx context.Context, st *store.Store, m *enrol.Membership, ask *joinAsk, token string) (*base, *enrol.Membership, error) {
	name := a.cfg.Name
	if ask != nil {
		token, name = ask.req.Token, ask.req.Name
	}
	if m != nil {
		b, err := newBase(a.cfg, st, m.Keys, a.log)
		return b, m, err
	}
	t, err := wire.DecodeToken(token)
	if err != nil {
		return nil, nil, err
	}
	if t.Offline != nil {
		m, err := enrol.JoinOffline(t, time.Now())
		if err != nil {
			return nil, nil, err
		}
		if err := enrol.Save(st, m); err != nil {
			return nil, nil, err
		}
		b, err := newBase(a.cfg, st, m.Keys, a.log)
		return b, m, err
	}
	keys, err := enrol.EnsureKeys(st)
	if err != nil {
		return nil, nil, err
	}
	b, err := newBase(a.cfg, st, keys, a.log)
	if err != nil {
		return nil, nil, err
	}
	m, err = joinOver(ctx, st, t, keys, name, b.host.OpenEnrol)
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	a.log.Info("admitted to the network", "network", t.GetNetworkName())
	return b, m, nil
}

// joinOver enrols and stores the membership.
func joinOver(ctx context.Context, st *store.Store, t *wire.Token, keys enrol.Keys, name mesh.Name, open enrol.Open) (*enrol.Membership, error) {
	if name == "" {
		name = HostName()
	}
	m, err := enrol.Join(ctx, t, keys, name, open, time.Now)
	if err != nil {
		return nil, err
	}
	return m, enrol.Save(st, m)
}

func (a *Agent) runNode(ctx context.Context, st *store.Store, b *base, m *enrol.Membership, ask *joinAsk) error {
	n, err := newNode(a.cfg, st, b, m, a.log)
	if err != nil {
		err = errors.Join(err, b.Close())
		if ask != nil {
			ask.answer <- joinAnswer{err: err}
		}
		return err
	}
	a.node.Store(n)
	defer a.node.Store(nil)
	if ask != nil {
		ask.answer <- joinAnswer{resp: report{n}.joined()}
	}
	err = n.run(ctx)
	a.node.Store(nil)
	return errors.Join(err, n.close())
}

// wait returns when this machine is a member (init or join wrote the state) or somebody asks to join. When ctx ends, it returns nothing.
func (a *Agent) wait(ctx context.Context) (*store.Store, *enrol.Membership, *joinAsk, error) {
	a.log.Info("this machine is no member of a network yet: waiting for `gridwire join TOKEN` or `gridwire init NETWORK`")
	_ = sdnotify.Send("READY=1\nSTATUS=waiting for gridwire join")
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, nil, nil, nil
		case <-a.free:
		case ask := <-a.join:
			st, err := store.Open(a.cfg.State)
			if err != nil {
				ask.answer <- joinAnswer{err: err}
				continue
			}
			return st, nil, &ask, nil
		case <-tick.C:
			st, err := store.Open(a.cfg.State)
			if errors.Is(err, store.ErrLocked) {
				continue
			}
			if err != nil {
				return nil, nil, nil, err
			}
			m, err := enrol.Load(st)
			if err == nil {
				return st, m, nil, nil
			}
			_ = st.Close()
			if !errors.Is(err, fs.ErrNotExist) { // a membership is there now, and cannot be used: say so rather than wait for ever
				return nil, nil, nil, err
			}
		}
	}
}

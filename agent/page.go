package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/web"
)

// page is the health page of this agent, before and after it is a member.
type page struct {
	*web.Page
	listen string // "off": on the control socket only
	log    *slog.Logger
	at     atomic.Pointer[string] // the address while it is served
}

func newPage(h api.Handlers, listen string, log *slog.Logger) (*page, error) {
	w, err := web.New(web.Config{Handlers: h, Log: log.With("part", "page")})
	if err != nil {
		return nil, err
	}
	return &page{Page: w, listen: listen, log: log}, nil
}

func (p *page) handlers() api.PageHandlers { return api.PageHandlers{Open: p.open, Files: p.Handler()} }

func (p *page) open(context.Context) (*api.PageInfo, error) {
	info := &api.PageInfo{Token: p.Token()}
	if at := p.at.Load(); at != nil {
		info.Address = "http://" + *at + "/"
	}
	return info, nil
}

// run serves until ctx ends. A port that is taken (a second agent on the machine) is said and given up: links do not need the page.
func (p *page) run(ctx context.Context) error {
	if p.listen == "off" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", p.listen)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("another program, perhaps another agent, has the port: give this one --page 127.0.0.1:0 or --page off: %w", err)
		}
		p.log.Warn("the health page is off", "err", err)
		<-ctx.Done()
		return nil
	}
	at := l.Addr().String()
	p.at.Store(&at)
	return p.Serve(ctx, l)
}

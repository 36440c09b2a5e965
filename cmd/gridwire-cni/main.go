// Command gridwire-cni is a CNI plugin (specification 1.1): container runtimes call it to put containers straight into the mesh, each with an
// address and a name of its own.
//
// It is thin: it reads what the runtime says, has package attach connect the container's namespace, and prints the result. The agent owns
// everything; the plugin keeps no state and runs no daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/workload/attach"
)

// build is the program's version; the Makefile sets it.
var build = "unknown"

// limit bounds one call; runtimes wait for minutes, people do not.
const limit = 20 * time.Second

func main() {
	skel.PluginMainFuncs(
		skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"),
		"gridwire-cni "+build+": puts containers into a gridwire mesh",
	)
}

func add(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	r, err := c.request(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	made, err := attach.Attach(ctx, c.client(), r)
	if err != nil {
		return fault(err)
	}
	res, err := c.result(made, r.Ifname)
	if err == nil {
		err = types.PrintResult(res, c.CNIVersion)
	}
	if err != nil { // the runtime does not know what was made, so it would not ask to have it removed
		_ = c.client().Post(ctx, "/v1/workloads/remove", api.WorkloadRef{Owner: r.Owner}, nil)
	}
	return err
}

// del removes what add made. It is no error if there is nothing, nor if the agent is away: what a container had is forgotten when its
// namespace is gone.
func del(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err = c.client().Post(ctx, "/v1/workloads/remove", api.WorkloadRef{Owner: c.owner(args)}, nil)
	if err != nil && !errors.Is(err, api.ErrNoAgent) && c.member(ctx) {
		return fault(err)
	}
	return attach.Detach(args.Netns, c.made(args))
}

// check says whether the container is still attached as add left it.
func check(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var all []api.Workload
	if err := c.client().Get(ctx, "/v1/workloads", &all); err != nil {
		return fault(err)
	}
	owner := *c.owner(args)
	for _, w := range all {
		if w.Owner == nil || *w.Owner != owner {
			continue
		}
		if w.Health != "up" {
			return types.NewError(types.ErrInternal, fmt.Sprintf("workload %s is %s", w.DNSName, w.Health), w.Reason)
		}
		return attach.Check(args.Netns, c.made(args), w.Addresses)
	}
	return types.NewError(types.ErrUnknownContainer, "the container is not attached to the mesh", "add it anew")
}

// gc removes what containers of this network have that are no more.
func gc(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	keep := api.WorkloadKeep{Network: c.Name, Keep: []api.WorkloadOwner{}}
	for _, a := range c.ValidAttachments {
		keep.Keep = append(keep.Keep, api.WorkloadOwner{Network: c.Name, Container: a.ContainerID, Interface: a.IfName})
	}
	return fault(c.client().Post(ctx, "/v1/workloads/gc", keep, nil))
}

// status says whether add could work now.
func status(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var st api.Status
	err = c.client().Get(ctx, "/v1/status", &st)
	switch {
	case err != nil:
		return types.NewError(types.ErrPluginNotAvailable, "the gridwire agent cannot be asked", err.Error())
	case st.Network == nil:
		return types.NewError(types.ErrPluginNotAvailable, "this machine is no member of a gridwire network", "gridwire join TOKEN")
	}
	return nil
}

// fault gives an error the specification's code, so that a runtime tries again when that may help: an agent that is starting.
func fault(err error) error {
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrNoAgent):
		return types.NewError(types.ErrTryAgainLater, "no gridwire agent is running", err.Error())
	case errors.As(err, &e) && e.Code == api.CodeTimeout:
		return types.NewError(types.ErrTryAgainLater, "the gridwire agent did not answer in time", err.Error())
	case errors.As(err, &e) && e.Code == api.CodeUsage:
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

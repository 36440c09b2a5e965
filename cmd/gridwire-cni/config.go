package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/workload/attach"
	"github.com/gridwire/gridwire/mesh"
)

// conf is the plugin's part of a network configuration.
type conf struct {
	types.PluginConf

	Socket    string   `json:"socket"`        // the agent's; empty: where it is by default
	Workload  string   `json:"workload"`      // the name, where it is not the container's
	Ports     []string `json:"ports"`         // of every container, as gridwire workload add --port takes them
	Interface string   `json:"interfaceName"` // in the container, behind another plugin that has made the one that the runtime asked for; gw0
	Resolver  *bool    `json:"resolver"`      // containers ask this node for names first; true
}

func parse(args *skel.CmdArgs) (*conf, error) {
	c := &conf{Socket: config.Env("SOCKET", config.DefaultSocket), Interface: config.DefaultInterface}
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration is no JSON of this plugin's", err.Error())
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the result of the plugin before cannot be read", err.Error())
	}
	return c, nil
}

func (c *conf) client() *api.Client { return api.NewClient(c.Socket) }

// member reports whether this machine is (still) in a network; if that cannot be found out, it is.
func (c *conf) member(ctx context.Context) bool {
	var st api.Status
	return c.client().Get(ctx, "/v1/status", &st) != nil || st.Network != nil
}

// owner is how the agent knows the container.
func (c *conf) owner(args *skel.CmdArgs) *api.WorkloadOwner {
	return &api.WorkloadOwner{Network: c.Name, Container: args.ContainerID, Interface: args.IfName}
}

// ifname is what the interface in the container is to be called. Behind another plugin the name that the runtime asked for is taken.
func (c *conf) ifname(args *skel.CmdArgs) string {
	if c.PrevResult == nil {
		return args.IfName
	}
	return c.Interface
}

// made is what add called it, by the result that the runtime kept: the interface in the container whose gateway is ours.
func (c *conf) made(args *skel.CmdArgs) string {
	if c.PrevResult == nil {
		return args.IfName
	}
	res, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return c.Interface
	}
	for _, ip := range res.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(res.Interfaces) && res.Interfaces[*i].Sandbox != "" && ip.Gateway.Equal(gateway) {
			return res.Interfaces[*i].Name
		}
	}
	return c.Interface
}

// gateway is that of every container of ours, and of hardly anybody else's.
var gateway = net.ParseIP("fe80::1")

func (c *conf) request(args *skel.CmdArgs) (attach.Request, error) {
	name, ports, err := c.naming(args)
	if err != nil {
		return attach.Request{}, types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
	}
	return attach.Request{
		Ifname: c.ifname(args),
		WorkloadRequest: api.WorkloadRequest{
			Name: name, Ports: append(ports, c.Ports...), Netns: args.Netns, Owner: c.owner(args), Rename: true,
		},
	}, nil
}

// naming takes the workload's name from, in this order, CNI_ARGS GRIDWIRE_NAME, the configuration, CNI_ARGS K8S_POD_NAME (which podman and
// others set too), and the container's ID. The first two are somebody's choice and must be names; the others are made ones.
func (c *conf) naming(args *skel.CmdArgs) (name string, ports []string, err error) {
	given := map[string]string{}
	for _, pair := range strings.Split(args.Args, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			given[k] = v
		}
	}
	if p := given["GRIDWIRE_PORTS"]; p != "" {
		for _, text := range strings.Split(p, ",") {
			text = strings.Replace(text, ":", "=", 1) // in CNI_ARGS no value can have a =
			if _, err := mesh.ParsePort(text); err != nil {
				return "", nil, fmt.Errorf("CNI_ARGS GRIDWIRE_PORTS: %w", err)
			}
			ports = append(ports, text)
		}
	}
	for _, chosen := range []string{given["GRIDWIRE_NAME"], c.Workload} {
		if chosen != "" {
			n, err := mesh.ParseName(chosen)
			return string(n), ports, err
		}
	}
	for _, found := range []string{given["K8S_POD_NAME"], args.ContainerID[:min(len(args.ContainerID), 12)]} {
		if n := label(found); n != "" {
			return n, ports, nil
		}
	}
	return "", nil, errors.New("neither CNI_ARGS nor the container's ID make a name")
}

// label makes a DNS label of a container's name: my_web.1 becomes my-web-1.
func label(s string) string {
	b := []byte(strings.ToLower(s))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			b[i] = '-'
		}
	}
	s = strings.Trim(string(b), "-")
	return strings.Trim(s[:min(len(s), 63)], "-")
}

// result says what was made, behind what the plugin before made.
func (c *conf) result(made *attach.Result, ifname string) (*types100.Result, error) {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if c.PrevResult != nil {
		before, err := types100.NewResultFromResult(c.PrevResult)
		if err != nil {
			return nil, fmt.Errorf("the result of the plugin before: %w", err)
		}
		res = before
	}
	p := made.Plan
	res.Interfaces = append(res.Interfaces,
		&types100.Interface{Name: p.Interface, Mac: made.HostMAC.String(), Mtu: p.MTU},
		&types100.Interface{Name: ifname, Mac: made.MAC.String(), Mtu: p.MTU, Sandbox: made.Netns})
	index := len(res.Interfaces) - 1
	gw := net.ParseIP(p.Gateway)
	for _, s := range p.Addresses {
		ip, ipnet, err := net.ParseCIDR(s)
		if err != nil {
			return nil, fmt.Errorf("the agent's plan: %w", err)
		}
		ipnet.IP = ip
		conf := &types100.IPConfig{Interface: types100.Int(index), Address: *ipnet}
		if ip.To4() == nil {
			conf.Gateway = gw
		}
		res.IPs = append(res.IPs, conf)
	}
	for _, s := range p.Overlay {
		_, dst, err := net.ParseCIDR(s)
		if err != nil {
			return nil, fmt.Errorf("the agent's plan: %w", err)
		}
		switch {
		case dst.IP.To4() == nil:
			res.Routes = append(res.Routes, &types.Route{Dst: *dst, GW: gw})
		case len(p.Addresses) > 1: // its next hop is of the other family, which a result cannot say
			res.Routes = append(res.Routes, &types.Route{Dst: *dst})
		}
	}
	if c.Resolver == nil || *c.Resolver {
		res.DNS.Nameservers = append(p.DNS, res.DNS.Nameservers...)
		res.DNS.Search = append(res.DNS.Search, p.Domain)
	}
	if len(c.DNS.Nameservers) > 0 {
		res.DNS = c.DNS
	}
	return res, nil
}

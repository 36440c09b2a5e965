package wire

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/gridwire/gridwire/mesh"
)

// Workloads encodes ws for a record. It checks nothing: SignRecord does.
func Workloads(ws []mesh.Workload) []*Workload {
	out := make([]*Workload, len(ws))
	for i, w := range ws {
		x := &Workload{Name: string(w.Name)}
		for _, a := range w.Addrs {
			x.Addresses = append(x.Addresses, a.AsSlice())
		}
		for _, p := range w.Ports {
			x.Ports = append(x.Ports, &Port{Name: p.Name, Number: uint32(p.Number), Protocol: p.Protocol})
		}
		out[i] = x
	}
	return out
}

// ParseWorkloads reads what Workloads wrote, within the limits of mesh.CheckWorkloads.
func ParseWorkloads(xs []*Workload) ([]mesh.Workload, error) {
	if len(xs) == 0 {
		return nil, nil
	}
	if len(xs) > mesh.MaxWorkloads { // before anything is made of them
		return nil, fmt.Errorf("workloads: %d, at most %d are allowed", len(xs), mesh.MaxWorkloads)
	}
	out := make([]mesh.Workload, len(xs))
	for i, x := range xs {
		w, err := parseWorkload(x)
		if err != nil {
			return nil, fmt.Errorf("workload %d: %w", i, err)
		}
		out[i] = w
	}
	return out, mesh.CheckWorkloads(out)
}

func parseWorkload(x *Workload) (mesh.Workload, error) {
	w := mesh.Workload{Name: mesh.Name(x.GetName())}
	if err := first(
		checkMax("addresses", len(x.GetAddresses()), mesh.MaxWorkloadAddrs),
		checkMax("ports", len(x.GetPorts()), mesh.MaxWorkloadPorts),
	); err != nil {
		return w, err
	}
	for _, b := range x.GetAddresses() {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return w, fmt.Errorf("address of %d bytes, want 4 (IPv4) or 16 (IPv6)", len(b))
		}
		w.Addrs = append(w.Addrs, a)
	}
	for _, p := range x.GetPorts() {
		if p.GetNumber() > math.MaxUint16 {
			return w, fmt.Errorf("port %d, want 1 to 65535", p.GetNumber())
		}
		w.Ports = append(w.Ports, mesh.Port{Name: p.GetName(), Number: uint16(p.GetNumber()), Protocol: p.GetProtocol()})
	}
	return w, nil
}

func checkWorkloads(xs []*Workload) error {
	_, err := ParseWorkloads(xs)
	return err
}

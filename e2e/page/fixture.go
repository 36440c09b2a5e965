// Package page looks at the health page with a real browser: with meshes of any size made up here, since what is tested is what the
// page does with what the agent says. The page of a real agent is looked at in package e2e.
package page

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gridwire/gridwire/agent/api"
)

// mesh is a made-up agent's answers.
type mesh struct {
	mu    sync.Mutex
	st    *api.Status
	asked []string // of Want
}

var places = []string{"berlin", "lagos", "quito", "hanoi", "oslo", "perth", "lima", "seoul", "cairo", "turin"}

// newMesh makes up a network of n members beside this one; the same n, the same network.
func newMesh(n int) *mesh {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	expires := time.Now().Add(24 * 24 * time.Hour)
	m := &mesh{st: &api.Status{
		Network: &api.Network{Name: "farm", ID: "5b3c", Domain: "farm.internal", IPv6Prefix: "fd5b:3c1d:9e42::/48", IPv4Prefix: "10.88.0.0/16"},
		Self: api.Self{
			Name: "alice", ID: "self", Addresses: []string{"fd5b:3c1d:9e42:1:2:3:4:1/128", "10.88.0.1/32"}, Interface: "gw0", ListenPort: 51820,
			Backend: "userspace", NAT: "endpoint-independent", Issuer: true, CertificateExpires: &expires, Version: "v0.1.0",
		},
		Peers: []api.Peer{},
	}}
	for i := range n {
		m.st.Peers = append(m.st.Peers, peer(r, i))
	}
	if n >= len(places) { // a network of some size has a phone, and a LAN behind somebody
		heard := time.Now().Add(-time.Minute)
		m.st.Self.Gateway = true
		m.st.Devices = []api.Device{{
			Name: "phone", Addresses: []string{"fd5b:3c1d:9e42:d:e:f:a:1/128", "10.88.3.1/32"}, State: "connected", LastHeard: &heard, ReceiveBytes: 3e6, TransmitBytes: 41e6, Expires: expires,
		}}
		m.st.Routes = []api.Route{
			{Prefix: "192.168.40.0/24", State: "active", Via: places[0], Routers: []string{places[0], places[1]}},
			{Prefix: "192.168.50.0/24", State: "unreachable", Routers: []string{places[3]}, Reason: "no link to hanoi"},
		}
	}
	return m
}

func peer(r *rand.Rand, i int) api.Peer {
	name := places[i%len(places)]
	if i >= len(places) {
		name = fmt.Sprintf("%s-%d", name, i/len(places)+1)
	}
	rtt := 0.001 * math.Exp(r.Float64()*5.5)
	p := api.Peer{
		Name: name, ID: fmt.Sprintf("id-%d", i), Addresses: []string{fmt.Sprintf("fd5b:3c1d:9e42:9:8:7:%x:1/128", i+1), fmt.Sprintf("10.88.%d.%d/32", i/250, i%250+2)},
		Tags: []string{}, State: "connected", RTT: rtt, LastHandshake: time.Now().Add(-time.Duration(r.IntN(120)) * time.Second),
		ReceiveBytes: r.Uint64N(4e9), TransmitBytes: r.Uint64N(4e9), TimeToConnect: 0.11, NAT: "endpoint-independent", Version: "v0.1.0",
		MTU: 1420, Path: api.Path{Kind: "direct", Local: "203.0.113.7:51820", Remote: fmt.Sprintf("198.51.100.%d:51820", i%250+1), LocalType: "srflx", RemoteType: "srflx"},
	}
	switch {
	case i%17 == 3:
		p.State, p.Path, p.RTT, p.NAT = "unreachable", api.Path{Kind: "none"}, 0, "endpoint-dependent"
		p.Reason = "both NATs give every destination another port (symmetric), so neither side can know where to send; forward a UDP port on one of the two routers, or use IPv6"
	case i%17 == 6:
		p.Path.Kind, p.Path.Via = "relay", places[0]
	case i%11 == 4:
		loss, last := 0.02, time.Now().Add(-3*time.Hour)
		p.Loss, p.LastDay = 0.08, &api.LinkDay{Minutes: 1440, Down: 119, Interruptions: 2, LastDown: &last, Loss: &loss}
	case i%13 == 7:
		p.State = "idle"
	case i%5 == 2:
		p.Workloads = []api.Offer{{Name: "web", DNSName: "web." + name + ".farm.internal", Addresses: []string{fmt.Sprintf("fd5b:3c1d:9e42:9:8:7:%x:2/128", i+1)}, Ports: []string{"http=8080/tcp", "9000/udp"}}}
	case i%5 == 1:
		p.Path.Remote, p.Path.LocalType, p.Path.RemoteType = fmt.Sprintf("[2001:db8::%x]:51820", i), "host", "host"
		p.Tags = []string{"site:" + places[i%len(places)]}
	}
	return p
}

// change lets the test do something to what the agent says.
func (m *mesh) change(f func(*api.Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := *m.st
	st.Peers = append([]api.Peer(nil), m.st.Peers...)
	f(&st)
	m.st = &st
}

func (m *mesh) status() *api.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st
}

func (m *mesh) handlers() api.Handlers {
	return api.Handlers{
		Status:    func(context.Context) (*api.Status, error) { return m.status(), nil },
		Diagnosis: api.Diagnosis{Explain: m.explain},
		History:   api.HistoryHandlers{Links: lastDay},
		Want: func(_ context.Context, r api.NameRequest) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.asked = append(m.asked, r.Name)
			return nil
		},
		Invite: func(_ context.Context, r api.InviteRequest) (*api.InviteResponse, error) {
			return &api.InviteResponse{Token: "gw1-for-" + string(r.Name), Expires: time.Now().Add(24 * time.Hour)}, nil
		},
	}
}

func (m *mesh) explain(_ context.Context, r api.NameRequest) (*api.Explain, error) {
	for _, p := range m.status().Peers {
		if p.Name == r.Name {
			return explained(p), nil
		}
	}
	return nil, &api.Error{Code: api.CodeMissing, Message: "no member is called " + r.Name}
}

// lastDay makes up a day with a rhythm, an outage of two hours and an evening on which packets were lost.
func lastDay(_ context.Context, r api.HistoryRequest) (*api.History, error) {
	rnd := rand.New(rand.NewPCG(7, 7))
	link := api.LinkHistory{Peer: r.Peer, StepSeconds: 60}
	start := time.Now().Truncate(time.Minute).Add(-24 * time.Hour)
	for i := range 24 * 60 {
		if i > 500 && i < 620 { // the machine was off
			continue
		}
		busy := math.Max(0, math.Sin(float64(i)/1440*2*math.Pi))
		avg := 0.030 + 0.012*busy + 0.003*rnd.Float64()
		s := api.LinkSample{
			Time: start.Add(time.Duration(i) * time.Minute), State: "connected", Path: "direct", RTTMin: avg * 0.9, RTTAvg: avg, RTTMax: avg * (1.1 + 0.5*rnd.Float64()),
			Probes: 20, ReceiveBytes: uint64(4e6*busy + 1e5*rnd.Float64()), TransmitBytes: uint64(9e5*busy + 1e5*rnd.Float64()),
		}
		if i > 1100 && i < 1180 {
			s.Lost = rnd.IntN(4)
			s.Loss = float64(s.Lost) / 20
		}
		link.Samples = append(link.Samples, s)
	}
	return &api.History{StepSeconds: 60, Links: []api.LinkHistory{link}}, nil
}

func explained(p api.Peer) *api.Explain {
	e := &api.Explain{Peer: p, SelfNAT: "endpoint-independent", PeerNAT: p.NAT, Meaning: "Both ends are behind ordinary NATs; each opened its router for the other at the same moment."}
	e.Changes = []api.Change{
		{At: time.Now().Add(-3 * time.Hour), What: "connected", Path: p.Path.Remote}, {At: time.Now().Add(-time.Hour), What: "path", Path: p.Path.Remote, Reason: "its address changed"},
	}
	if p.State == "unreachable" {
		e.Meaning = p.Reason
		e.Advice = []string{"Forward UDP 51820 on " + p.Name + "'s router to the machine there, and start its agent with --advertise."}
	}
	return e
}

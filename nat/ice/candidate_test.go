package ice

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"

	"github.com/gridwire/gridwire/nat"
)

func checkFor(t testing.TB, ufrag string) []byte {
	t.Helper()
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(ufrag+":other"), ice.AttrControlled(1),
		ice.PriorityAttr(1), stun.NewShortTermIntegrity("a wrong password, 22 b"), stun.Fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func addrs(s ...string) (out []netip.AddrPort) {
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func TestDescribe(t *testing.T) {
	hosts := hostAddresses(addrs("192.168.1.2:9", "[::ffff:10.0.0.2]:9", "[fe80::1]:9", "[2001:db8::2]:9", "192.168.1.2:9", "0.0.0.0:9", "10.0.0.3:0"))
	if want := addrs("[2001:db8::2]:9", "192.168.1.2:9", "10.0.0.2:9"); fmt.Sprint(hosts) != fmt.Sprint(want) {
		t.Fatalf("hosts %v, want %v", hosts, want)
	}
	extra := []nat.Candidate{natCandidate(netip.MustParseAddrPort("198.51.100.2:7")), natCandidate(hosts[0])}
	got := describe(hosts, extra)
	if len(got) != 4 || got[3].Type != nat.ServerReflexive {
		t.Fatalf("candidates %v", got)
	}
	for i := 1; i < len(got); i++ {
		if got[i].Priority >= got[i-1].Priority {
			t.Errorf("%v (%d) should come after %v (%d)", got[i], got[i].Priority, got[i-1], got[i-1].Priority)
		}
	}
	if six := priority(nat.Host, hosts[0].Addr(), 0); six != topPriority {
		t.Errorf("the best priority is %d, want pion's %d", six, uint32(topPriority))
	}
	var many []netip.AddrPort
	for i := range 40 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 9))
	}
	if got := describe(hostAddresses(many), extra[:1]); len(got) != maxLocal || got[maxLocal-1].Type != nat.ServerReflexive {
		t.Errorf("%d candidates, the last %v", len(got), got[len(got)-1])
	}
}

func TestFilterRemote(t *testing.T) {
	var in []nat.Candidate
	for _, a := range addrs("192.168.1.2:9", "10.64.0.1:9", "[::ffff:198.51.100.7]:9", "224.0.0.1:9", "0.0.0.0:9", "198.51.100.7:9", "[fe80::2]:9",
		"[2001:db8::3]:9", "255.255.255.255:9", "198.51.100.8:0") {
		in = append(in, nat.Candidate{Type: nat.Host, Addr: a})
	}
	in = append(in, nat.Candidate{Type: "nonsense", Addr: addrs("198.51.100.9:9")[0], Priority: 1 << 31})
	overlay := netip.MustParsePrefix("10.64.0.0/16")
	got := filterRemote(in, addrs("192.168.1.2:9"), func(a netip.Addr) bool { return !overlay.Contains(a) })
	want := addrs("[2001:db8::3]:9", "198.51.100.9:9", "198.51.100.7:9")
	if fmt.Sprint(addresses(got)) != fmt.Sprint(want) {
		t.Fatalf("%v, want %v", addresses(got), want)
	}
	for i := range 100 {
		in = append(in, nat.Candidate{Type: nat.Host, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 1}), uint16(i+1))})
	}
	if got := filterRemote(in, nil, func(netip.Addr) bool { return true }); len(got) != maxRemote {
		t.Errorf("%d remote candidates", len(got))
	}
}

// FuzzDispatch gives the mux what strangers may send: it keeps nothing unless a session is named or a request is under way.
func FuzzDispatch(f *testing.F) {
	f.Add(checkFor(f, "ours"))
	f.Add(checkFor(f, "theirs"))
	answer, err := stun.Build(stun.BindingSuccess, stun.NewTransactionIDSetter([12]byte{1}), &stun.XORMappedAddress{IP: []byte{192, 0, 2, 1}, Port: 9})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer.Raw)
	from := netip.MustParseAddrPort("192.0.2.9:9")
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMux(nil, func(netip.Addr) bool { return true })
		k := muxKey{"ours", true}
		c := newMuxConn(m, k, from, make(chan struct{}, 1))
		m.conns[k] = c
		id := [12]byte{1}
		m.mu.Lock()
		c.remember(m.pending, id)
		m.mu.Unlock()
		var scratch stun.Message
		m.dispatch(&scratch, b, from)
		msg := &stun.Message{Raw: append([]byte(nil), b...)}
		decoded := msg.Decode() == nil && msg.Type.Method == stun.MethodBinding
		name, _ := msg.Get(stun.AttrUsername)
		named := decoded && msg.Type.Class == stun.ClassRequest && (string(name) == "ours" || len(name) > 4 && string(name[:5]) == "ours:")
		answers := decoded && msg.Type.Class == stun.ClassSuccessResponse && msg.TransactionID == id
		if got := len(c.queue) == 1; got != (named || answers) {
			t.Fatalf("queued %v, but named %v, answers %v", got, named, answers)
		}
		if len(c.targets) != 0 {
			t.Fatalf("%d targets made by a stranger", len(c.targets))
		}
	})
}

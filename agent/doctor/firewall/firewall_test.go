package firewall

import (
	"os"
	"strings"
	"testing"
)

func ruleset(t *testing.T, name string) *Ruleset {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseNFT(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Both files are what nft printed for rules of the kind that their names say.
func TestNFT(t *testing.T) {
	for _, tc := range []struct {
		file string
		p    Packet
		want Fate
		at   string
	}{
		{"home.json", Packet{Interface: "eth0", DstPort: 51820}, Passes, ""},
		{"home.json", Packet{Interface: "eth0", DstPort: 40000}, Dropped, "inet filter input"},
		{"home.json", Packet{Interface: "eth0", DstPort: 8005}, Passes, ""},
		{"home.json", Packet{Interface: "eth0", DstPort: 9584}, Unknown, "inet filter input"}, // from some sources
		{"home.json", Packet{Interface: "gw0", DstPort: 9584}, Passes, ""},
		{"home.json", Packet{Interface: "lo", DstPort: 1}, Passes, ""},
		{"home.json", Packet{Interface: "a", DstPort: 4500}, Passes, ""},
		{"home.json", Packet{Interface: "a", DstPort: 5001}, Dropped, "inet filter input"},
		{"home.json", Packet{Interface: "eth0", DstPort: 53}, Passes, ""},
		{"home.json", Packet{Interface: "eth0", DstPort: 53, V6: true}, Dropped, "ip6 six in"},
		{"home.json", Packet{Out: true, Interface: "eth0", SrcPort: 51820, DstPort: 1}, Passes, ""},
		{"home.json", Packet{Out: true, Interface: "eth9", SrcPort: 51820, DstPort: 1}, Dropped, "inet filter output"},
		{"firewalld.json", Packet{Interface: "eth0", DstPort: 51820}, Dropped, "inet firewalld filter_INPUT"},
		{"firewalld.json", Packet{Interface: "eth0", DstPort: 546, V6: true}, Unknown, "inet firewalld filter_INPUT"},
		{"firewalld.json", Packet{Interface: "gw0", DstPort: 9584}, Passes, ""},
		{"firewalld.json", Packet{Out: true, SrcPort: 51820}, Passes, ""},
	} {
		v := ruleset(t, tc.file).Judge(tc.p, nil)
		if v.Fate != tc.want || place(v) != tc.at {
			t.Errorf("%s: %+v: %d at %q, want %d at %q", tc.file, tc.p, v.Fate, place(v), tc.want, tc.at)
		}
	}
}

func place(v Verdict) string {
	if v.Chain == nil {
		return ""
	}
	return v.Chain.Family + " " + v.Chain.Table + " " + v.Chain.Name
}

func TestTablesCanBeLeftOut(t *testing.T) {
	v := ruleset(t, "home.json").Judge(Packet{DstPort: 40000}, func(c *Chain) bool { return c.Table == "filter" })
	if v.Fate != Passes {
		t.Errorf("%+v", v)
	}
}

func TestNoRules(t *testing.T) {
	r, err := ParseNFT([]byte(`{"nftables": [{"metainfo": {"version": "1.0.6"}}]}`))
	if err != nil || r.Judge(Packet{}, nil).Fate != Passes {
		t.Error(err)
	}
	if _, err := ParseNFT([]byte("Operation not permitted")); err == nil {
		t.Error("no JSON is taken for rules")
	}
}

const ufw = `-P INPUT DROP
-P FORWARD DROP
-P OUTPUT ACCEPT
-N ufw-before-input
-N ufw-user-input
-N ufw-not-local
-A INPUT -j ufw-before-input
-A INPUT -m comment --comment "the owner's, with spaces" -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-user-input -p udp -m udp --dport 51820 -j ACCEPT
-A ufw-user-input -p udp -m multiport --dports 7000,7010:7020 -j ACCEPT
-A ufw-user-input -i gw+ -j ACCEPT
-A ufw-user-input ! -i eth0 -p udp -m udp --dport 6000 -j ACCEPT
-A ufw-user-input -s 192.0.2.0/24 -p udp -m udp --dport 6001 -j ACCEPT
`

func TestIPTables(t *testing.T) {
	for _, tc := range []struct {
		p    Packet
		want Fate
	}{
		{Packet{Interface: "eth0", DstPort: 51820}, Passes},
		{Packet{Interface: "eth0", DstPort: 51821}, Dropped},
		{Packet{Interface: "eth0", DstPort: 7015}, Passes},
		{Packet{Interface: "eth0", DstPort: 7009}, Dropped},
		{Packet{Interface: "gw0", DstPort: 9584}, Passes},
		{Packet{Interface: "eth0", DstPort: 6000}, Dropped},
		{Packet{Interface: "eth1", DstPort: 6000}, Passes},
		{Packet{Interface: "eth0", DstPort: 6001}, Unknown},
		{Packet{Interface: "eth0", DstPort: 51821, V6: true}, Passes}, // these are the rules of IPv4
		{Packet{Out: true, SrcPort: 51820}, Passes},
	} {
		if v := ParseIPTables(ufw, "ip").Judge(tc.p, nil); v.Fate != tc.want {
			t.Errorf("%+v: %d, want %d", tc.p, v.Fate, tc.want)
		}
	}
	reject := strings.ReplaceAll(ufw, "-P INPUT DROP", "-P INPUT ACCEPT") + "-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"
	if v := ParseIPTables(reject, "ip").Judge(Packet{Interface: "eth0", DstPort: 9}, nil); v.Fate != Dropped {
		t.Errorf("a final REJECT: %+v", v)
	}
}

// docker is what its daemon makes of FORWARD.
const docker = `-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -i docker0 -j ACCEPT
`

func TestForwarded(t *testing.T) {
	p := Packet{Forwarded: true, Interface: "gw0", DstPort: 40000}
	if v := ParseIPTables(docker, "ip").Judge(p, nil); v.Fate != Dropped || place(v) != "ip filter FORWARD" {
		t.Errorf("Docker's rules: %+v", v)
	}
	if v := ParseIPTables(docker, "ip").Judge(Packet{Interface: "gw0"}, nil); v.Fate != Passes {
		t.Errorf("not forwarded: %+v", v)
	}
	if v := ParseIPTables(docker+"-A DOCKER-USER -i gw+ -j ACCEPT\n", "ip").Judge(p, nil); v.Fate != Passes {
		t.Errorf("with gw+ let through: %+v", v)
	}
	own := `{"nftables":[{"chain":{"family":"inet","table":"gridwire_gw0","name":"forward","type":"filter","hook":"forward","prio":0,"policy":"drop"}}]}`
	r, err := ParseNFT([]byte(own))
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Judge(p, nil); v.Fate != Passes {
		t.Errorf("our own table: %+v", v)
	}
}

func TestLoopsEnd(t *testing.T) {
	r := ParseIPTables("-P INPUT DROP\n-N a\n-A INPUT -j a\n-A a -j a\n", "ip")
	if v := r.Judge(Packet{}, nil); v.Fate != Dropped {
		t.Errorf("%+v", v)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"home.json", "firewalld.json"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(ufw)
	f.Fuzz(func(t *testing.T, text string) {
		p := Packet{Interface: "eth0", DstPort: 51820}
		if r, err := ParseNFT([]byte(text)); err == nil {
			r.Judge(p, nil)
		}
		ParseIPTables(text, "ip").Judge(p, nil)
	})
}

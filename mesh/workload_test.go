package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]string{
		"8080": "8080/tcp", "8080/udp": "8080/udp", "http=8080/tcp": "http=8080/tcp", "HTTP=80": "http=80/tcp", "dns=53/UDP": "dns=53/udp", "65535": "65535/tcp",
	} {
		p, err := ParsePort(text)
		if err != nil || p.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, p, err, want)
		}
	}
	for text, words := range map[string]string{
		"": "want [NAME=]", "0": "want [NAME=]", "65536": "want [NAME=]", "-1": "want [NAME=]", "http": "want [NAME=]", "=80": "want [NAME=]",
		"80/": "want tcp or udp", "80/sctp": "want tcp or udp", "http=80/tcp/x": "want tcp or udp", "a_b=80": "service name",
		"abcdefghijklmnop=80": "service name", "1=80": "service name", "a--b=80": "service name", "-a=80": "service name", "a=b=80": "want [NAME=]",
	} {
		if p, err := ParsePort(text); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, %v, want an error about %q", text, p, err, words)
		}
	}
}

func TestCheckWorkloads(t *testing.T) {
	some := func(n int) (out []Workload) {
		for i := range n {
			out = append(out, Workload{Name: Name(fmt.Sprint("w", i)), Addrs: []netip.Addr{netip.MustParseAddr("fd00::2")}})
		}
		return out
	}
	if err := CheckWorkloads(some(MaxWorkloads)); err != nil {
		t.Fatal(err)
	}
	if err := CheckWorkloads(some(MaxWorkloads + 1)); err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("one too many: %v", err)
	}
	for _, a := range []string{"::", "::1", "ff02::1", "fe80::1", "fd00::1%eth0", "::ffff:192.0.2.1", "255.255.255.255", "0.0.0.0", "127.0.0.1"} {
		if err := (Workload{Name: "w", Addrs: []netip.Addr{netip.MustParseAddr(a)}}).Check(); err == nil || !strings.Contains(err.Error(), "no single host") {
			t.Errorf("%s: %v", a, err)
		}
	}
}

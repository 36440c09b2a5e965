package lan

import (
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/zeroconf/v2"

	"github.com/gridwire/gridwire/mesh"
)

var (
	secret  = []byte("a secret of thirty-two bytes ...")
	someday = time.Date(2026, 3, 4, 23, 59, 0, 0, time.FixedZone("", 3600)) // 22:59 UTC
)

func TestServiceName(t *testing.T) {
	name := serviceName(secret, someday, 0)
	label := strings.TrimSuffix(strings.TrimPrefix(name, "_"), "._udp")
	if len(label) != 15 || strings.ToLower(label) != label {
		t.Errorf("%q is no service name of 15 letters", name)
	}
	if serviceName(secret, someday.Add(2*time.Minute), 0) != name {
		t.Error("the name changed at local midnight, not at UTC's")
	}
	if serviceName(secret, someday.Add(2*time.Hour), 0) == name || serviceName(secret, someday.Add(2*time.Hour), -1) != name {
		t.Error("tomorrow, today's name is not yesterday's")
	}
	if serviceName([]byte("another"), someday, 0) == name {
		t.Error("two networks have one name")
	}
}

func TestIdentity(t *testing.T) {
	self := mesh.NodeID{1, 2, 3}
	a, err := newIdentity(secret, self)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newIdentity(secret, self)
	if a.instance == b.instance || a.text == b.text || a.host == b.host {
		t.Error("two starts look alike")
	}
	if len(a.text) > 255 {
		t.Errorf("a text of %d bytes does not fit", len(a.text))
	}
	if id, err := openText(secret, a.instance, a.text); err != nil || id != self {
		t.Errorf("%v, %v", id, err)
	}
	if _, err := openText([]byte("another"), a.instance, a.text); err == nil {
		t.Error("another network opened it")
	}
	if _, err := openText(secret, b.instance, a.text); err == nil {
		t.Error("it was opened under another instance's name")
	}
}

func TestUntilTomorrow(t *testing.T) {
	if d := untilTomorrow(someday); d != time.Hour+time.Minute+time.Second {
		t.Errorf("%v", d)
	}
}

func TestOpenFiltersEntries(t *testing.T) {
	self, member := mesh.NodeID{9}, mesh.NodeID{1}
	l := New(Config{Self: self, Secret: secret, Known: func(id mesh.NodeID) bool { return id == member }, Log: slog.New(slog.DiscardHandler)})
	entry := func(id mesh.NodeID, ips ...string) *zeroconf.ServiceEntry {
		ident, err := newIdentity(secret, id)
		if err != nil {
			t.Fatal(err)
		}
		e := &zeroconf.ServiceEntry{Port: 51820, Text: []string{ident.text}}
		e.Instance = ident.instance
		for _, ip := range ips {
			if p := net.ParseIP(ip); p.To4() != nil {
				e.AddrIPv4 = append(e.AddrIPv4, p)
			} else {
				e.AddrIPv6 = append(e.AddrIPv6, p)
			}
		}
		return e
	}
	id, addrs, ok := l.open(entry(member, "169.254.7.8", "fe80::1", "fd00::1"))
	want := []netip.AddrPort{netip.MustParseAddrPort("169.254.7.8:51820"), netip.MustParseAddrPort("[fd00::1]:51820")}
	if !ok || id != member || len(addrs) != 2 || addrs[0] != want[0] || addrs[1] != want[1] {
		t.Errorf("%v, %v, %v", id, addrs, ok)
	}
	for what, e := range map[string]*zeroconf.ServiceEntry{
		"somebody unknown":  entry(mesh.NodeID{7}, "169.254.7.8"),
		"this node":         entry(self, "169.254.7.8"),
		"no address":        entry(member),
		"a useless address": entry(member, "fe80::1"),
		"no text":           {Port: 1},
	} {
		if _, _, ok := l.open(e); ok {
			t.Errorf("%s was found", what)
		}
	}
	bad := entry(member, "169.254.7.8")
	bad.Port = 70000
	if _, _, ok := l.open(bad); ok {
		t.Error("port 70000 was found")
	}
}

// Nobody without the secret makes a text that opens: only the one seed that was sealed does.
func FuzzOpenText(f *testing.F) {
	nonce := make([]byte, nonceSize) // fixed: each worker of the fuzzer is a process of its own
	text, err := sealText(secret, nonce, mesh.NodeID{1})
	if err != nil {
		f.Fatal(err)
	}
	instance := hex.EncodeToString(nonce)
	f.Add(instance, text)
	f.Add("", "")
	f.Add(instance, base64.RawURLEncoding.EncodeToString(make([]byte, 48)))
	f.Fuzz(func(t *testing.T, i, s string) {
		id, err := openText(secret, i, s)
		if i == instance && s == text && err != nil {
			t.Errorf("the right one was refused: %v", err)
		}
		if err == nil && (i != instance || id != mesh.NodeID{1}) {
			t.Errorf("opened %q, %q as %v", i, s, id)
		}
	})
}

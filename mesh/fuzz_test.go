package mesh

import "testing"

// FuzzParsePort: what is accepted is good, and means the same when it is written and read again.
func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"http=8080/tcp", "8080", "53/udp", "HTTP=80/TCP", "=80", "x=/", "0", "65536", "a--b=1", "http=80/sctp", "-=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePort(s)
		if err != nil {
			return
		}
		if err := p.Check(); err != nil {
			t.Fatalf("%q was accepted: %v", s, err)
		}
		if again, err := ParsePort(p.String()); err != nil || again != p {
			t.Fatalf("%q is %v, which reads as %v, %v", s, p, again, err)
		}
	})
}

// FuzzParseDomain and names: what is accepted stays as it is when it is read again.
func FuzzParseDomain(f *testing.F) {
	for _, s := range []string{"farm.internal", "farm.internal.", "a..b", "-a.b", "FARM.internal", "xn--bcher-kva.example", ".", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDomain(s); err == nil {
			if again, err := ParseDomain(d); err != nil || again != d {
				t.Fatalf("%q is %q, which reads as %q, %v", s, d, again, err)
			}
		}
		if n, err := ParseName(s); err == nil {
			if again, err := ParseName(string(n)); err != nil || again != n {
				t.Fatalf("%q is %q, which reads as %q, %v", s, n, again, err)
			}
		}
	})
}

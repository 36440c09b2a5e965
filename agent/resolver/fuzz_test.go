package resolver

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gridwire/gridwire/dns/osconf"
)

// FuzzServe: the helper is root, and whatever a member of the agent's group sends ends with the machine's settings as they were.
func FuzzServe(f *testing.F) {
	for _, s := range []string{
		`{"op":"detect"}{"op":"upstream"}{"op":"revert"}`, `{"op":"apply"}`, `{"op":"detect"}{"op":"apply"}`, `[]`, `{"op":"detect"}{"op":"detect"}`, "\x00", `{"op":7}`,
		`{"op":"detect"}{"op":"apply","settings":{"Interface":"gw0","Servers":["fd00::1"],"Domain":"farm.internal"}}`,
		`{"op":"detect"}{"op":"apply","settings":{"Interface":"eth0\nnameserver 1.2.3.4","Servers":["fd00::1"],"Domain":"x\ny"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fake := newFake()
		here, there := net.Pipe()
		m := Machine{
			Detect:  func() (osconf.Manager, error) { return fake, nil },
			Restore: func(context.Context) ([]string, error) { return nil, nil },
			Check: func(s osconf.Settings) (osconf.Settings, error) {
				if len(s.Servers) == 0 {
					return s, errors.New("no servers")
				}
				return s, nil
			},
		}
		done := make(chan struct{})
		go func() { // waited for below
			defer close(done)
			_ = Serve(context.Background(), there, m)
			_ = there.Close()
		}()
		answers := make(chan struct{})
		go func() { // ends with the pipe
			defer close(answers)
			_, _ = io.Copy(io.Discard, here)
		}()
		_, _ = here.Write(data)
		_ = here.Close()
		<-done
		<-answers
		if did := fake.take(); strings.Contains(did, "apply") && !strings.HasSuffix(did, "revert") {
			t.Fatalf("settings are left: %s", did)
		}
	})
}

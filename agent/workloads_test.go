package agent

import (
	"encoding/json"
	"errors"
	"flag"
	"testing"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/mesh"
)

// FuzzWorkloadRequest: whatever stands in a request, it is refused as a mistake of the asker's, or it is within the rules for names and ports.
func FuzzWorkloadRequest(f *testing.F) {
	for _, seed := range []string{
		`{"name":"web","netns":"/run/netns/web","ports":["http=8080/tcp","53/udp"]}`, `{"name":"nas","address":"192.0.2.1"}`,
		`{"name":"a_b"}`, `{"name":"x","ports":["0"]}`, `{"name":"x","address":"fe80::1%eth0"}`, `{"name":"Pod","owner":{"container":"c"},"rename":true}`,
	} {
		f.Add([]byte(seed))
	}
	accepted := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		var in api.WorkloadRequest
		if json.Unmarshal(b, &in) != nil {
			return
		}
		r, err := workloadRequest(in)
		var e *api.Error
		if err != nil {
			if !errors.As(err, &e) || e.Code != api.CodeUsage || e.Message == "" {
				t.Fatalf("refused with %#v", err)
			}
			return
		}
		accepted++
		if n, err := mesh.ParseName(string(r.Name)); err != nil || n != r.Name || len(r.Ports) != len(in.Ports) || (in.Address != "") != r.Address.IsValid() {
			t.Fatalf("%+v from %s: %v", r, b, err)
		}
		for _, p := range r.Ports {
			if p.Check() != nil {
				t.Fatalf("port %v", p)
			}
		}
	})
	if accepted == 0 && flag.Lookup("test.fuzz").Value.String() == "" {
		f.Fatal("no input of the corpus was accepted: add seeds")
	}
}

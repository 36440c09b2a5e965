package workload

import (
	"bytes"
	"flag"
	"net/netip"
	"testing"

	"github.com/gridwire/gridwire/mesh"
)

// FuzzLoad: whatever a list of workloads says, it is refused, or everything that is done with it can be done, and it is stored as it was.
func FuzzLoad(f *testing.F) {
	c := newCore("gw0")
	for _, name := range []string{"web", "db"} {
		i, err := c.plan(attached(name), farm, now)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := c.commit(i.Name, now); err != nil {
			f.Fatal(err)
		}
	}
	c.remove("db")
	b, err := c.save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.ReplaceAll(b, []byte("fd00"), []byte("fd01")))
	f.Add(bytes.ReplaceAll(b, []byte("web"), []byte("db")))
	f.Add(b[:len(b)/2])
	f.Add([]byte(`{"version":1,"workloads":[{}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"workloads":null,"remembered":[{},{"name":"x"}]}`))
	accepted := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCore("gw0")
		if c.load(data, now) != nil {
			return
		}
		accepted++
		stored, err := c.save()
		if err != nil {
			t.Fatalf("cannot be stored: %v", err)
		}
		again := newCore("gw0")
		if err := again.load(stored, now); err != nil {
			t.Fatalf("cannot be read again: %v\n%s", err, stored)
		}
		if twice, err := again.save(); err != nil || !bytes.Equal(twice, stored) {
			t.Fatalf("stored as\n%s\nand then as\n%s", stored, twice)
		}
		look(c, farm)
		for _, w := range c.announced() {
			if err := w.Check(); err != nil {
				t.Fatalf("announces %+v: %v", w, err)
			}
		}
		for _, e := range c.sorted() {
			_ = e.Addrs[0] // there is one
		}
		if i, err := c.plan(attached("fresh"), farm, now); err == nil {
			for _, e := range c.items {
				if e.Name != "fresh" && e.Addrs[0] == i.Addrs[0] {
					t.Fatalf("%v is given away twice", i.Addrs[0])
				}
			}
		}
		c.observe(sight{links: map[string]bool{}, reasons: map[netip.Addr]string{}}, farm, now)
		c.overdue(now)
		c.remove(mesh.Name("web"))
	})
	if accepted == 0 && flag.Lookup("test.fuzz").Value.String() == "" {
		f.Fatal("no input of the corpus was accepted: add seeds")
	}
}

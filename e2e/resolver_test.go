//go:build linux

package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/e2e/lab"
)

// pc is a host whose resolver is its own: what a farmer or developer has.
type pc struct {
	*lab.Machine
	w *world
	h *lab.Host
}

func (w *world) pc(h *lab.Host, c lab.MachineConfig) *pc {
	w.Helper()
	return &pc{must(h.Machine(c))(w), w, h}
}

// start starts the agent as root, which may configure the resolver itself.
func (p *pc) start(env []string, args ...string) *lab.Agent {
	p.w.Helper()
	return p.startAs(p.Wrap(), env, args...)
}

func (p *pc) startAs(wrap, env []string, args ...string) *lab.Agent {
	p.w.Helper()
	args = append([]string{"--metrics", "off", "--resolver", "on"}, args...)
	a := must(p.h.StartAgentWith(lab.AgentConfig{Args: args, Env: env, Wrap: wrap}))(p.w)
	p.w.agents[p.h] = a
	if err := a.WaitReady(p.w.ctx(15 * time.Second)); err != nil {
		p.w.Fatal(err)
	}
	return a
}

// configured waits until the machine's resolver asks the agent, and returns what is in charge of it.
func (p *pc) configured() string {
	p.w.Helper()
	var names api.Names
	p.w.eventually(10*time.Second, p.h.Label()+"'s resolver is configured", func() bool {
		return api.NewClient(p.h.Socket()).Get(p.w.ctx(5*time.Second), "/v1/names", &names) == nil && names.Configured
	})
	return names.Resolver
}

func (p *pc) text(name string) string {
	p.w.Helper()
	return string(must(os.ReadFile(p.Etc(name)))(p.w))
}

// getent asks as programs do: through glibc and whatever the machine has. It returns the first address, or nothing.
func (p *pc) getent(name string) string {
	out, _ := p.Exec(p.w.ctx(15*time.Second), "getent", "ahosts", name)
	addr, _, _ := strings.Cut(string(out), " ")
	return addr
}

// finds waits until a name is found.
func (p *pc) finds(name, want string) {
	p.w.Helper()
	p.w.eventually(10*time.Second, p.h.Label()+" finds "+name, func() bool { return p.getent(name) == want })
}

// doctor returns what doctor says.
func (p *pc) doctor(args ...string) string {
	out, _ := p.Gridwire(p.w.ctx(30*time.Second), append([]string{"doctor", "--json"}, args...)...) // other checks may find something
	return out
}

func (w *world) says(what, text, want string) {
	w.Helper()
	if !strings.Contains(text, want) {
		w.Errorf("%s does not say %q:\n%s", what, want, text)
	}
}

// plain is a machine with nothing but a resolv.conf, in a mesh with alice.
func (w *world) plain() (p *pc, alice string, isp *isp, original string) {
	w.Helper()
	a, b := w.public("alice"), w.home("bob", home)
	w.found(a)
	isp = w.isp("isp")
	original = "# the owner's\nnameserver " + isp.addr + "\noptions edns0\n"
	return w.pc(b, lab.MachineConfig{ResolvConf: original, Hosts: "files dns"}), w.status(a).Self.Addresses[0].Addr().String(), isp, original
}

// TestResolverPlainFile: with a resolv.conf and nothing else, all names are found, and everything is put back, however the agent ends.
func TestResolverPlainFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, isp, original := w.plain()
	agent := p.start(nil, "--join", w.token("bob"))
	p.configured()
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	if got := p.getent("nobody.farm.internal"); got != "" {
		t.Errorf("nobody has the address %q", got)
	}
	w.says("doctor", p.doctor(), "/etc/resolv.conf asks this node for farm.internal, and programs find bob.farm.internal")
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.text("resolv.conf"); got != original {
		t.Errorf("after the end:\n%s", got)
	}
	// Killed, the machine still finds the rest of the internet, and the next start puts everything back before it begins anew.
	p.start(nil)
	p.configured()
	w.agents[p.h].Kill()
	p.finds(www, wwwAddr)
	agent = p.start(nil)
	p.configured()
	p.finds("alice.farm.internal", alice)
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.text("resolv.conf"); got != original {
		t.Errorf("after a kill, a start and an end:\n%s", got)
	}
	// Killed before it ever starts again: doctor.
	agent = p.start(nil)
	p.configured()
	agent.Kill()
	w.says("doctor", p.doctor(), "a killed agent left its settings: /etc/resolv.conf has lines for "+p.h.Interface())
	w.says("doctor --fix", p.doctor("--fix"), "mended")
	if got := p.text("resolv.conf"); got != original {
		t.Errorf("after doctor --fix:\n%s", got)
	}
	w.says("doctor", p.doctor(), "nothing of gridwire's is left there")
	if entries := must(os.ReadDir(p.Etc("")))(t); slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.Contains(e.Name(), "gridwire") }) {
		t.Errorf("left in /etc: %v", entries)
	}
	if n := isp.ours.Load(); n > 0 {
		t.Errorf("the provider was asked %d times for names of the mesh", n)
	}
}

// TestResolverStepsBack: a file that somebody else changes is not fought over, nor overwritten.
func TestResolverStepsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.Options{})
	p, alice, isp, _ := w.plain()
	agent := p.start(nil, "--join", w.token("bob"))
	p.configured()
	p.finds("alice.farm.internal", alice)
	theirs := "# somebody's own\nnameserver " + isp.addr + "\n"
	if err := os.WriteFile(p.Etc("resolv.conf"), []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually(10*time.Second, "status says that it steps back", func() bool {
		return strings.Contains(w.run(p.h, "status", "--json"), "another program has changed it since")
	})
	w.says("doctor", p.doctor(), "another program has changed it since")
	p.finds(www, wwwAddr)
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.text("resolv.conf"); got != theirs {
		t.Errorf("theirs was changed:\n%s", got)
	}
	// Lines of ours that somebody has edited are left for him, by the next start and by doctor, too.
	p.start(nil)
	p.finds("alice.farm.internal", alice)
	w.agents[p.h].Kill()
	edited := strings.Replace(p.text("resolv.conf"), "timeout:1", "timeout:9", 1)
	if err := os.WriteFile(p.Etc("resolv.conf"), []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	w.says("doctor --fix", p.doctor("--fix"), "not as it wrote them")
	agent = p.start(nil)
	w.eventually(10*time.Second, "status says why", func() bool { return strings.Contains(w.run(p.h, "status", "--json"), "not as it wrote them") })
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.text("resolv.conf"); got != edited {
		t.Errorf("edited lines were changed:\n%s", got)
	}
}

// TestResolverHelper: the service is not root. Without the helper it says what is lacking; with it names are found, and the helper puts
// everything back the moment the agent is killed.
func TestResolverHelper(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]helperStart{"as systemd starts it": bySystemd, "by hand": byHand} {
		t.Run(name, func(t *testing.T) { testHelper(t, start) })
	}
}

func testHelper(t *testing.T, start helperStart) {
	w := newWorld(t, lab.Options{})
	p, alice, _, original := w.plain()
	w.stateOf(p.h)
	service := append(p.Wrap(), append([]string{"unshare", "-m"}, asService(t, "net_admin", "net_bind_service")...)...)
	agent := p.startAs(service, nil, "--join", w.token("bob"))
	w.eventually(5*time.Second, "the log says what is lacking", func() bool {
		return strings.Contains(agent.Log(), "/etc/resolv.conf") && strings.Contains(agent.Log(), "it takes root") && strings.Contains(agent.Log(), "systemctl enable --now gridwire-resolver.socket")
	})
	w.says("doctor", p.doctor(), "make install brings the helper")
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	p.helper(start)
	agent = p.startAs(service, nil)
	p.finds("alice.farm.internal", alice)
	p.finds(www, wwwAddr)
	w.says("doctor", p.doctor(), "programs find bob.farm.internal")
	agent.Kill()
	w.eventually(2*time.Second, "the helper puts resolv.conf back", func() bool { return p.text("resolv.conf") == original })
	agent = p.startAs(service, nil)
	p.finds("alice.farm.internal", alice)
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.text("resolv.conf"); got != original {
		t.Errorf("after the end:\n%s", got)
	}
}

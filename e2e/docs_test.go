//go:build linux

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/e2e/lab"
)

// The documentation is run. An HTML comment, which readers do not see, stands before each fenced block and says how:
//
//	<!-- run on HOST, a public machine -->        on a machine of the lab, in the order of the page; the first mention makes it:
//	<!-- run on HOST, behind a home router -->    "a public machine", or "behind a home router"
//	<!-- run on HOST, ..., in a network with X --> with a network that the page does not make itself
//	<!-- run on HOST, in the background -->       the block's last command goes on running
//	<!-- tested by TestX -->                      another test runs the same
//	<!-- runs this very test -->
//	<!-- looks like the output of the block before -->
//
// In a block, "sudo" is dropped (the lab is root's), systemctl starts and stops the agent as the unit does, TOKEN is what the newest
// `invite` printed, and paths of the machine become those of the lab's host.

var documents = []string{"README.md", "docs/alerts.md", "docs/how-it-works.md", "docs/operations.md", "docs/troubleshooting.md"}

// block is a fenced block of a page.
type block struct {
	line int
	lang string // after the fence
	how  string // the comment before it
	text string
}

var (
	comment = regexp.MustCompile(`^<!-- (.*) -->$`)
	runOn   = regexp.MustCompile(`^run on (\w+)(.*)$`)
	tested  = regexp.MustCompile(`^tested by (\w+)$`)
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func blocks(t *testing.T, text string) []block {
	t.Helper()
	var out []block
	var current *block
	how := ""
	for n, line := range strings.Split(text, "\n") {
		lang, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && current == nil:
			current = &block{line: n + 1, lang: lang, how: how}
		case fence:
			out = append(out, *current)
			current, how = nil, ""
		case current != nil:
			current.text += line + "\n"
		case comment.MatchString(line):
			how = comment.FindStringSubmatch(line)[1]
		case line != "":
			how = ""
		}
	}
	if current != nil {
		t.Fatalf("line %d: a fence is not closed", current.line)
	}
	return out
}

// TestEveryCommandInTheDocsIsTested: a block of commands runs here or names the test that does the same.
func TestEveryCommandInTheDocsIsTested(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	files, _ := filepath.Glob("*_test.go")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sources[f] = string(b)
	}
	for _, name := range documents {
		for _, b := range blocks(t, page(t, name)) {
			other := tested.FindStringSubmatch(b.how)
			switch {
			case other != nil:
				found := false
				for _, src := range sources {
					found = found || strings.Contains(src, "func "+other[1]+"(t *testing.T)")
				}
				if !found {
					t.Errorf("%s:%d: there is no %s", name, b.line, other[1])
				}
			case b.how == "runs this very test":
			case (b.lang == "sh" || b.lang == "toml") && !runOn.MatchString(b.how):
				t.Errorf("%s:%d: commands that no test runs", name, b.line)
			}
		}
	}
}

func TestREADMERuns(t *testing.T)          { newReader(t, "README.md").read() }
func TestOperationsRun(t *testing.T)       { newReader(t, "docs/operations.md").read() }
func TestTroubleshootingRuns(t *testing.T) { newReader(t, "docs/troubleshooting.md").read() }

// reader does what a page says, on the machines of a lab.
type reader struct {
	*world
	page   string
	hosts  map[string]*lab.Host
	pcs    map[*lab.Host]*pc
	path   string // folder with the programs that commands find first
	usb    string
	newest string // token
	last   string // output of the newest block
	second string // folder for what a second network on a machine needs
}

func newReader(t *testing.T, name string) *reader {
	r := &reader{world: newWorld(t, lab.Options{}), page: name, hosts: map[string]*lab.Host{}, pcs: map[*lab.Host]*pc{}, path: t.TempDir(), usb: t.TempDir(), second: t.TempDir()}
	if err := os.Symlink(binary, filepath.Join(r.path, "gridwire")); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reader) read() {
	r.Helper()
	ran := 0
	for _, b := range blocks(r.T, page(r.T, r.page)) {
		if b.how == "looks like the output of the block before" {
			r.compare(b)
			continue
		}
		where := runOn.FindStringSubmatch(b.how)
		if where == nil {
			continue
		}
		h := r.host(where[1], where[2])
		if _, other, found := strings.Cut(where[2], "in a network with "); found {
			r.network(h, r.host(other, "behind a home router"))
		}
		r.block(h, b, strings.Contains(where[2], "in the background"))
		ran++
	}
	if ran == 0 {
		r.Errorf("%s has nothing to run", r.page)
	}
}

// host returns a machine, made at its first mention.
func (r *reader) host(name, what string) *lab.Host {
	r.Helper()
	if r.hosts[name] == nil {
		switch {
		case strings.Contains(what, "a public machine"):
			r.hosts[name] = r.public(name)
		case strings.Contains(what, "behind a home router"):
			r.hosts[name] = r.home(name, home)
		default:
			r.Fatalf("%s: the first mention of %s does not say where it is", r.page, name)
		}
		r.stateOf(r.hosts[name])
		p := r.pc(r.hosts[name], lab.MachineConfig{ResolvConf: "# no name server but gridwire's\n", Hosts: "files dns"})
		p.helper(bySystemd)
		r.pcs[r.hosts[name]] = p
	}
	return r.hosts[name]
}

func (r *reader) network(a, b *lab.Host) {
	r.Helper()
	r.run(a, "init", "farm", "--node", a.Label())
	r.issuer = a
	r.serve(a)
	r.serve(b, "--join", r.token(b.Label()))
	r.linked(a, b, 10*time.Second)
}

// serve starts h's agent as the service that `make install` brings, with its helper.
func (r *reader) serve(h *lab.Host, args ...string) {
	r.Helper()
	p := r.pcs[h]
	service := append(append(p.Wrap(), "unshare", "-m"), asService(r.T, "net_admin", "net_bind_service")...)
	r.agents[h] = must(h.StartAgentWith(lab.AgentConfig{Args: append([]string{"--resolver", "on"}, args...), Wrap: service}))(r)
	if err := r.agents[h].WaitReady(r.ctx(15 * time.Second)); err != nil {
		r.Fatalf("start the service on %s: %v", h.Label(), err)
	}
}

// block runs the commands of a block, line by line.
func (r *reader) block(h *lab.Host, b block, background bool) {
	r.Helper()
	var out strings.Builder
	lines := strings.Split(strings.TrimSpace(b.text), "\n")
	for i, line := range lines {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
		switch {
		case line == "systemctl enable --now gridwire":
			r.serve(h)
		case line == "systemctl restart gridwire":
			if err := r.agents[h].Stop(); err != nil {
				r.Fatal(err)
			}
			r.serve(h)
		case background && i == len(lines)-1:
			cmd := r.pcs[h].Command(r.Context(), "sh", "-c", r.script(h, line)) // the lab ends it with everything else in the namespace
			if err := cmd.Start(); err != nil {
				r.Fatal(err)
			}
			r.eventually(10*time.Second, "the agent in the background answers", func() bool {
				_, err := os.Stat(filepath.Join(r.second, "run.sock"))
				return err == nil
			})
		default:
			out.WriteString(r.command(h, b, line))
		}
	}
	r.last = out.String()
	if fields := strings.Fields(r.last); len(fields) > 0 && strings.HasPrefix(fields[len(fields)-1], "gw1") {
		r.newest = fields[len(fields)-1]
	}
}

// command runs a line. Nobody types as fast as this test: what one machine says has 2 s to reach the next before a refusal counts.
func (r *reader) command(h *lab.Host, b block, line string) string {
	r.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, err := r.pcs[h].Exec(r.ctx(30*time.Second), "sh", "-ec", r.script(h, line))
		if err == nil {
			return string(out)
		}
		if codeOf(err) != 4 || time.Since(start) > 2*time.Second {
			r.Fatalf("%s:%d: on %s: %v", r.page, b.line, h.Label(), err)
		}
	}
}

// script is a line of the page as the lab runs it, in a folder where it may leave files.
func (r *reader) script(h *lab.Host, line string) string {
	if strings.HasPrefix(line, "journalctl -u gridwire") {
		line = "cat " + h.LogFile()
	}
	for _, p := range [][2]string{
		{"TOKEN", r.newest},
		{"/var/lib/gridwire-second", filepath.Join(r.second, "state")},
		{"/run/gridwire-second.sock", filepath.Join(r.second, "run.sock")},
		{"--interface gw1", "--interface " + h.Interface() + "x"},
		{"/var/lib/gridwire", h.State()},
		{"/media/usb", r.usb},
		{"-o gridwire -g gridwire", fmt.Sprintf("-o %d -g %d", serviceUID, serviceGID)},
		{"wg show gw0", fmt.Sprintf("nsenter -t %d -m wg show %s", r.pid(h), h.Interface())},
		{" sudo ", " "},
		{"(sudo ", "("},
	} {
		line = strings.ReplaceAll(line, p[0], p[1])
	}
	return fmt.Sprintf("cd %s; export PATH=%s:$PATH GRIDWIRE_STATE=%s GRIDWIRE_SOCKET=%s\n%s", r.usb, r.path, h.State(), h.Socket(), line)
}

func (r *reader) pid(h *lab.Host) int {
	if a := r.agents[h]; a != nil {
		return a.PID()
	}
	return 0
}

// compare checks that a sample on the page has the form of what the block before printed: the same lines, by first word and columns.
func (r *reader) compare(b block) {
	r.Helper()
	columns := regexp.MustCompile(` {2,}`)
	form := func(text string) map[string]int {
		out := map[string]int{}
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) > 0 {
				out[fields[0]] = len(columns.Split(strings.TrimSpace(line), -1))
			}
		}
		return out
	}
	got := form(r.last)
	for word, n := range form(b.text) {
		if got[word] != n {
			r.Errorf("%s:%d: the sample's line %q has %d columns, the program's %d:\n%s", r.page, b.line, word, n, got[word], r.last)
		}
	}
}

// TestReadmeConfigs: each configuration file in the docs is one that the agent takes.
func TestReadmeConfigs(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, name := range documents {
		for _, b := range blocks(t, page(t, name)) {
			if b.lang != "toml" {
				continue
			}
			tried++
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
			config.Flags(flags)
			if err := flags.Parse([]string{"--config", file}); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(flags, func(string) string { return "" }); err != nil {
				t.Errorf("%s:%d: %v", name, b.line, err)
			}
		}
	}
	if tried == 0 {
		t.Error("no configuration found: this test tests nothing")
	}
}

// TestMessagesInTheDocsExist: what the troubleshooting page quotes as the program's words is in its source.
func TestMessagesInTheDocsExist(t *testing.T) {
	t.Parallel()
	source := programText(t)
	quoted := 0
	for n, line := range strings.Split(page(t, "docs/troubleshooting.md"), "\n") {
		message, is := strings.CutPrefix(line, "> ")
		if !is {
			continue
		}
		quoted++
		if !strings.Contains(source, message) {
			t.Errorf("docs/troubleshooting.md:%d: the program never says %q", n+1, message)
		}
	}
	if quoted < 10 {
		t.Errorf("only %d quotes found", quoted)
	}
}

// programText returns the program's sources with what splits a sentence taken out: string concatenation over lines, and format verbs for
// constants.
func programText(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, room := range []string{"agent", "mesh", "nat", "dns", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", room), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	text := regexp.MustCompile(`"\s*\+\s*"`).ReplaceAllString(all.String(), "")
	return strings.NewReplacer("open %s: make", "open /dev/net/tun: make", "usable %s:", "usable /dev/net/tun:", "may not open %s:", "may not open /dev/net/tun:").Replace(text)
}

// TestLinksInTheDocsLead: every link to a file or a heading of ours leads somewhere.
func TestLinksInTheDocsLead(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)
	for _, name := range documents {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := name
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(name), m[1])
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s: %s leads nowhere", name, m[0])
				continue
			}
			if m[2] != "" && !hasHeading(page(t, target), m[2][1:]) {
				t.Errorf("%s: %s has no heading %s", name, target, m[2])
			}
		}
	}
}

// hasHeading compares as GitHub makes anchors: lower case, hyphens for spaces, nothing but letters, digits and hyphens.
func hasHeading(text, anchor string) bool {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		made := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#"))), " ", "-")
		if regexp.MustCompile(`[^a-z0-9-]`).ReplaceAllString(made, "") == anchor {
			return true
		}
	}
	return false
}

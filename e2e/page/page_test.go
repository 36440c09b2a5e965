package page

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/web"
)

// shots is where `make screenshots` wants the pictures.
var shots = flag.String("screenshots", "", "write pictures of the page into this `FOLDER`")

// browser is a headless Chromium with one tab. Whatever the page says on its console as an error fails the test.
type browser struct {
	*testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string
}

func newBrowser(t *testing.T, width, height int, dark bool) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is missing: make testtools")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(width, height), chromedp.Flag("disable-dev-shm-usage", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel) // it waits for the browser's end
	ctx, end := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(end)
	b := &browser{T: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			if ev.Type == runtime.APITypeError || ev.Type == runtime.APITypeWarning {
				b.complain(fmt.Sprintf("console.%s: %s", ev.Type, ev.Args[0].Value))
			}
		case *runtime.EventExceptionThrown:
			b.complain(ev.ExceptionDetails.Error())
		case *cdlog.EventEntryAdded:
			if ev.Entry.Level == cdlog.LevelError || ev.Entry.Level == cdlog.LevelWarning {
				b.complain(ev.Entry.Text + " " + ev.Entry.URL)
			}
		}
	})
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	// A window has a least width, which is more than a phone's.
	b.do(cdlog.Enable(), runtime.Enable(), emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, false), emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range b.errors {
			t.Error(e)
		}
	})
	return b
}

func (b *browser) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errors = append(b.errors, what)
}

func (b *browser) do(actions ...chromedp.Action) {
	b.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// until waits for a JavaScript expression to become true.
func (b *browser) until(what, expression string) {
	b.Helper()
	if err := chromedp.Run(b.ctx, chromedp.Poll(expression, nil, chromedp.WithPollingTimeout(15*time.Second))); err != nil {
		var text string
		_ = chromedp.Run(b.ctx, chromedp.Evaluate(`document.body.innerText`, &text))
		b.Fatalf("%s: %v\nthe page says:\n%s", what, err, text)
	}
}

func (b *browser) text(expression string) (s string) {
	b.Helper()
	b.do(chromedp.Evaluate(expression, &s))
	return s
}

func (b *browser) picture(name string, publish bool) {
	b.Helper()
	var png []byte
	b.do(chromedp.FullScreenshot(&png, 100))
	if len(png) < 10_000 {
		b.Errorf("picture %s of %d bytes: is the page empty?", name, len(png))
	}
	if *shots == "" || !publish {
		return
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

// serve serves the page of a made-up mesh.
func serve(t *testing.T, m *mesh) (url, token string) {
	t.Helper()
	p, err := web.New(web.Config{Handlers: m.handlers()})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(p.Handler())
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL, p.Token()
}

const rows = `document.querySelectorAll("#table tbody tr").length`

func TestThePageAtEverySize(t *testing.T) {
	for name, c := range map[string]struct {
		members, width, height int
		dark                   bool
		published              bool
	}{
		"page-alone":     {0, 1200, 900, false, false},
		"page-3":         {2, 1200, 900, false, false},
		"page-11":        {10, 1280, 1000, false, true},
		"page-11-dark":   {10, 1280, 1000, true, true},
		"page-300":       {299, 1280, 1000, false, true},
		"page-on-phones": {10, 400, 900, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := serve(t, newMesh(c.members))
			b := newBrowser(t, c.width, c.height, c.dark)
			b.do(chromedp.Navigate(url))
			b.until("all members are in the table", fmt.Sprintf(`%s === %d && document.getElementById("live").textContent === "live"`, rows, c.members))
			b.until("the map has them too", fmt.Sprintf(`document.querySelectorAll("#map .node").length === %d`, c.members))
			b.until("nothing is wider than the window", fmt.Sprintf(`window.innerWidth === %d && document.documentElement.scrollWidth <= window.innerWidth`, c.width))
			b.until("no name is cut off at the map's edge", `(() => {
				const map = document.querySelector("#map svg").getBoundingClientRect();
				return [...document.querySelectorAll("#map .node text")].every((e) => { const t = e.getBoundingClientRect(); return t.left >= map.left && t.right <= map.right && t.top >= map.top && t.bottom <= map.bottom; });
			})()`)
			if got := b.text(`document.getElementById("findings").innerText`); !strings.Contains(got, ".") {
				t.Errorf("health says %q", got)
			}
			b.picture(name, c.published)
		})
	}
}

func TestALinksLastDay(t *testing.T) {
	url, _ := serve(t, newMesh(10))
	b := newBrowser(t, 1280, 1000, false)
	b.do(chromedp.Navigate(url))
	b.until("there", rows+` === 10`)
	b.do(chromedp.Click(`//button[text()="oslo"]`, chromedp.BySearch))
	b.until("three charts, with a gap where the machine was off", `document.querySelectorAll("#detail .chart").length === 3 && document.querySelectorAll("#detail .chart")[0].querySelectorAll(".line").length === 2`)
	if said := b.text(`document.querySelector("#detail .chart").getAttribute("aria-label")`); !strings.Contains(said, "highest") {
		t.Errorf("a chart is read as %q", said)
	}
	b.until("what was in the last 24 hours, and how large packets may be", `/down for 1 h 59 min, lost in 2 different minutes.*1420 bytes/s.test(document.getElementById("detail").innerText)`)
	b.until("the device and the networks", `document.querySelectorAll("#devices tbody tr").length === 1 && document.querySelectorAll("#routes tbody tr").length === 2 && !document.getElementById("routes").hidden`)
	b.picture("page-link", true)
}

func TestItIsLive(t *testing.T) {
	m := newMesh(5)
	url, _ := serve(t, m)
	b := newBrowser(t, 1200, 900, false)
	b.do(chromedp.Navigate(url))
	b.until("five members", rows+` === 5`)
	m.change(func(st *api.Status) {
		st.Peers = st.Peers[1:]
		st.Peers[0].State, st.Peers[0].Path.Kind, st.Peers[0].Reason = "unreachable", "none", "<b>it</b> does not answer"
	})
	b.until("one has gone", rows+` === 4`)
	b.until("one is without a link", `document.querySelectorAll("#map .cross").length >= 1 && document.getElementById("findings").innerText.includes("No link to lagos")`)
	b.do(chromedp.Click(`//button[text()="lagos"]`, chromedp.BySearch))
	b.until("its reason is text, not HTML", `document.getElementById("detail").innerText.includes("<b>it</b> does not answer")`)
	b.until("quito's workload has a link", `document.querySelector('#workload-rows a')?.getAttribute("href") === "http://[fd5b:3c1d:9e42:9:8:7:3:2]:8080/"`)
	b.do(chromedp.Click(`#findings .about button`, chromedp.ByQuery))
	b.until("a finding leads to the member it is about", `!document.getElementById("detail").hidden && document.getElementById("detail-h").textContent === document.querySelector("#findings .about button").textContent`)
	b.do(chromedp.Click(`//button[text()="lagos"]`, chromedp.BySearch))
	b.until("what would help", `document.getElementById("detail").innerText.includes("Forward UDP 51820")`)
}

func TestKeyboardAndScreenReader(t *testing.T) {
	url, _ := serve(t, newMesh(40))
	b := newBrowser(t, 1200, 900, false)
	b.do(chromedp.Navigate(url))
	b.until("there", rows+` === 40`)
	b.until("the map is one tab stop", `document.querySelectorAll('#map [tabindex="0"]').length === 1`)
	b.do(chromedp.Focus(`#map [tabindex="0"]`, chromedp.ByQuery), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	said := b.text(`document.activeElement.getAttribute("aria-label")`)
	if !strings.Contains(said, "path") {
		t.Errorf("the third member of the map is read as %q", said)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until("Enter opens it", `!document.getElementById("detail").hidden && document.activeElement.id === "detail"`)
	if name, _, _ := strings.Cut(said, ":"); b.text(`document.getElementById("detail-h").textContent`) != name {
		t.Errorf("another one than %s was opened", name)
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until("Escape closes it and goes back", `document.getElementById("detail").hidden && document.activeElement.closest("#map") !== null`)
	b.do(chromedp.SendKeys("#filter", "no link", chromedp.ByID))
	b.until("filtered", rows+` > 0 && `+rows+` < 10`)
	var bad []string
	b.do(chromedp.Evaluate(unnamed, &bad))
	if len(bad) > 0 {
		t.Errorf("these have no name that a screen reader could say: %q", bad)
	}
}

// unnamed lists what can be used and has no accessible name.
const unnamed = `[...document.querySelectorAll("button, input, a, [role=button], [role=img]")].filter((e) =>
	!(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length || e.getAttribute("title"))).map((e) => e.outerHTML.slice(0, 80))`

func TestChangingNeedsTheToken(t *testing.T) {
	m := newMesh(4)
	url, token := serve(t, m)
	b := newBrowser(t, 1200, 900, false)
	b.do(chromedp.Navigate(url))
	b.until("there", rows+` === 4`)
	if b.text(`String(document.getElementById("actions").hidden)`) != "true" {
		t.Error("without a token the page offers to change things")
	}
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(url+"#token="+token))
	b.until("the token has left the address bar, and the page offers to invite", `location.hash === "" && !document.getElementById("actions").hidden`)
	b.do(chromedp.SendKeys("#invite-name", "zoe", chromedp.ByID), chromedp.Click("#invite button", chromedp.ByQuery))
	b.until("a token is shown", `document.querySelector("#invitation textarea")?.value === "gw1-for-zoe"`)
	b.do(chromedp.Click(`//button[text()="hanoi"]`, chromedp.BySearch))
	b.until("details", `document.getElementById("detail").innerText.includes("Try again now")`)
	b.do(chromedp.Click(`//button[text()="Try again now"]`, chromedp.BySearch))
	b.until("it says so", `document.getElementById("detail").innerText.includes("trying")`)
	m.mu.Lock()
	defer m.mu.Unlock()
	if got, err := json.Marshal(m.asked); err != nil || string(got) != `["hanoi"]` {
		t.Errorf("asked for %s, %v", got, err)
	}
}

//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestObserve: `make observe` ends by itself without a terminal; on one it stays until Ctrl-C, and its Prometheus answers at the address that
// it prints. Both run at once, so one of them does not get the usual port.
func TestObserve(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := demoProgram(t)
	staying := demoCommand(ctx, program, "-observe", "../deploy")
	screen := runOnTerminal(t, staying)
	defer func() { _ = staying.Process.Kill() }()

	passing := demoCommand(ctx, program, "-observe", "../deploy")
	out, err := passing.CombinedOutput()
	if err != nil {
		t.Fatalf("without a terminal: %v\n%s", err, out)
	}
	nothingOfDemo(t, passing.Process.Pid)
	nothingOfPrometheus(t, passing.Process.Pid)
	for _, want := range []string{`scrapes all 5 members`, `gridwire_peer_path_info\{kind="direct"\}\) +20 `, `Prometheus +http://127\.0\.0\.1:\d+`, `Cleaned up`} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}

	for !strings.Contains(screen.text(), "Ctrl-C ends it") {
		select {
		case <-screen.done:
			t.Fatalf("it ended:\n%s", screen.text())
		case <-time.After(50 * time.Millisecond):
		}
	}
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(screen.text())
	if url == "" {
		t.Fatalf("no address is printed:\n%s", screen.text())
	}
	if got := membersUp(ctx, t, url); got != 5 {
		t.Errorf("the Prometheus at %s scrapes %d members, want 5", url, got)
	}
	if _, err := screen.terminal.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	<-screen.done
	if err := staying.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, screen.text())
	}
	nothingOfDemo(t, staying.Process.Pid)
	nothingOfPrometheus(t, staying.Process.Pid)
}

// membersUp asks a Prometheus, as a browser on this machine would.
func membersUp(ctx context.Context, t *testing.T, url string) int {
	t.Helper()
	req := must(http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/v1/query?query=up==1", nil))(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp := must(client.Do(req))(t)
	defer resp.Body.Close()
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return len(answer.Data.Result)
}

// nothingOfPrometheus checks that the folder of the one that process pid has run is gone.
func nothingOfPrometheus(t *testing.T, pid int) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("gridwire-prometheus-%d-*", pid))); len(left) > 0 {
		t.Errorf("it left %v behind", left)
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent"
	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/bugreport"
	"github.com/gridwire/gridwire/agent/config"
)

func bugreportCommand(g *globals) *cobra.Command {
	var file string
	var redact bool
	cmd := &cobra.Command{
		Use:   "bugreport",
		Short: "Pack logs and state for somebody who helps, with every key and token removed",
		Long: `Pack what somebody who helps has to see into one archive: status, members, netcheck, explain for every member, doctor, metrics,
configuration, recent logs, interfaces, routes and firewall rules. Every key, secret and token is removed; names and IP addresses stay unless
--redact-addresses is given. Nothing is sent anywhere. Look into it before you pass it on: CONTENTS.txt lists what is in it.

Run it with sudo: it then sees the firewall, and knows the secrets that it must remove.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "not run as root: the report lacks what only root sees, such as firewall rules (sudo gridwire bugreport)")
			}
			secrets, err := bugreport.Secrets(g.state)
			if err != nil && !os.IsPermission(err) && os.Geteuid() == 0 {
				return err
			}
			now := time.Now()
			name := "gridwire-bugreport-" + reportName(cmd.Context(), g) + "-" + now.UTC().Format("20060102-150405")
			if info, err := os.Stat(file); file == "" || err == nil && info.IsDir() {
				file = filepath.Join(file, name+".tar.gz")
			}
			var archive bytes.Buffer
			list, err := bugreport.Write(cmd.Context(), &archive, name, reporter{g}.entries(cmd.Context()), bugreport.NewRedactor(secrets, redact), now)
			if err != nil {
				return err
			}
			if file == "-" {
				fmt.Fprint(cmd.ErrOrStderr(), list)
				_, err := cmd.OutOrStdout().Write(archive.Bytes())
				return err
			}
			if err := writePrivate(file, archive.Bytes()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", list, file)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this `FILE`, or into this folder; - is standard output (default: gridwire-bugreport-NAME-TIME.tar.gz here)")
	cmd.Flags().BoolVar(&redact, "redact-addresses", false, "replace IP and hardware addresses, too, each by a name of its own")
	return cmd
}

// reportName is this node's name, or the host's.
func reportName(ctx context.Context, g *globals) string {
	if st, err := getStatus(ctx, g); err == nil && st.Self.Name != "" {
		return st.Self.Name
	}
	return string(agent.HostName())
}

// writePrivate leaves the whole file or none.
func writePrivate(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".gridwire-bugreport-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the report: %w (--output says where)", err)
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write the report to %s: %w", file, err)
	}
	return nil
}

// reporter gathers the parts.
type reporter struct{ *globals }

func (r reporter) entries(ctx context.Context) []bugreport.Entry {
	out := []bugreport.Entry{
		{Name: "version.txt", What: "gridwire, the kernel and the system", Get: r.version},
		{Name: "doctor.txt", What: "what doctor finds on this machine", Get: r.doctor},
		{Name: "status.json", What: "this node, its network, every peer and its path", Get: r.ask("/v1/status")},
		{Name: "members.json", What: "everybody the network knows of", Get: r.ask("/v1/members")},
		{Name: "issuers.json", What: "who may admit, renew and revoke", Get: r.ask("/v1/issuers")},
		{Name: "workloads.json", What: "what this node serves under names of its own", Get: r.ask("/v1/workloads")},
		{Name: "names.json", What: "how names are served, and whether the system asks here", Get: r.ask("/v1/names")},
		{Name: "netcheck.json", What: "NAT type, mapped addresses, reachability", Get: r.ask("/v1/netcheck")},
		{Name: "explain.txt", What: "explain for every member", Get: r.explainAll},
		{Name: "metrics.txt", What: "what Prometheus would get", Get: r.text("/v1/metrics")},
		{Name: "config.txt", What: "what the agent runs with, and its configuration file", Get: r.config},
		{Name: "log.txt", What: "the agent's newest lines, at most 1,000", Get: r.logs},
		{Name: "state.txt", What: "names, sizes, times and modes of the state folder's files; nothing of what is in them", Get: r.stateFolder},
	}
	for _, c := range []struct{ name, what, command string }{
		{"addresses.txt", "interfaces and addresses", "ip -d -s address"},
		{"routes.txt", "routes and routing rules", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"},
		{"firewall.txt", "rules of nftables and iptables", "nft list ruleset; iptables-save; ip6tables-save"},
		{"wireguard.txt", "WireGuard as wg shows it: public keys, endpoints, traffic", "wg show"},
		{"sockets.txt", "UDP sockets", "ss -uanp"},
		{"resolver.txt", "how names are resolved", "cat /etc/resolv.conf; resolvectl --no-pager status"},
		{"sysctl.txt", "network settings of the kernel", "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.all.disable_ipv6 net.core.rmem_max net.core.wmem_max"},
	} {
		out = append(out, bugreport.Entry{Name: c.name, What: c.what, Get: commands(c.command)})
	}
	return out
}

func (r reporter) ask(path string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		var answer json.RawMessage
		if err := r.client().Get(ctx, path, &answer); err != nil {
			return nil, err
		}
		var out bytes.Buffer
		err := json.Indent(&out, answer, "", "  ")
		return out.Bytes(), err
	}
}

func (r reporter) text(path string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		t := &api.Text{}
		err := r.client().Get(ctx, path, t)
		return []byte(t.Text), err
	}
}

func (r reporter) version(ctx context.Context) ([]byte, error) {
	out := fmt.Appendf(nil, "gridwire %s, %s, %s/%s, %d CPUs\n", agent.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	more, err := commands("uname -a; cat /etc/os-release; uptime; systemctl --no-pager status gridwire")(ctx)
	return append(out, more...), err
}

func (r reporter) doctor(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	printDoctor(&out, examine(ctx, r.globals))
	return out.Bytes(), nil
}

// explainAll asks about every member, those without a link first: they are why somebody asks for help.
func (r reporter) explainAll(ctx context.Context) ([]byte, error) {
	st, err := getStatus(ctx, r.globals)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, up := range []bool{false, true} {
		for _, p := range st.Peers {
			if up != (p.State == "connected" || p.State == "idle") {
				continue
			}
			e := &api.Explain{}
			if err := r.client().Post(ctx, "/v1/explain", api.NameRequest{Name: p.Name}, e); err != nil {
				return out.Bytes(), err
			}
			if err := printExplain(&out, e, time.Now()); err != nil {
				return out.Bytes(), err
			}
			fmt.Fprintf(&out, "\n%s\n\n", strings.Repeat("=", 60))
		}
	}
	return out.Bytes(), nil
}

func (r reporter) config(ctx context.Context) ([]byte, error) {
	out, err := r.text("/v1/config")(ctx)
	if len(out) > 0 {
		out = append(out, "\n\n"...)
	}
	path := config.DefaultFile
	if p := os.Getenv("GRIDWIRE_CONFIG"); p != "" {
		path = p
	}
	b, ferr := os.ReadFile(path)
	if ferr != nil {
		return fmt.Appendf(out, "%s: %v\n", path, ferr), err
	}
	return append(fmt.Appendf(out, "%s:\n", path), b...), err
}

// logs are the agent's own; where none runs, the journal's.
func (r reporter) logs(ctx context.Context) ([]byte, error) {
	l := &api.Logs{}
	if err := r.client().Get(ctx, "/v1/logs", l); err != nil {
		out, jerr := commands("journalctl --no-pager -u gridwire -n 1000")(ctx)
		if jerr != nil {
			return out, err
		}
		return out, nil
	}
	return fmt.Appendf(nil, "%s\n[%d older lines are not kept]\n", strings.Join(l.Lines, "\n"), l.Dropped), nil
}

func (r reporter) stateFolder(context.Context) ([]byte, error) {
	entries, err := os.ReadDir(r.state)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&out, "%v %9d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), e.Name())
		}
	}
	return out.Bytes(), nil
}

// commands runs programs one after the other, without a shell, and keeps what each says, its complaints too.
func commands(line string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		var out bytes.Buffer
		for one := range strings.SplitSeq(line, ";") {
			words := strings.Fields(one)
			fmt.Fprintf(&out, "$ %s\n", strings.Join(words, " "))
			runOne(ctx, &out, words)
			fmt.Fprintln(&out)
		}
		return out.Bytes(), nil
	}
}

func runOne(ctx context.Context, out io.Writer, words []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath(words[0]); err != nil {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if p, err := exec.LookPath(dir + words[0]); err == nil {
				path = p
			}
		}
		if path == "" {
			fmt.Fprintf(out, "[not installed]\n")
			return
		}
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(out, "[%v]\n", err)
	}
}

package main

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/workload/attach"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func parsed(t *testing.T, text, env string) (*conf, *skel.CmdArgs) {
	t.Helper()
	args := &skel.CmdArgs{ContainerID: id, Netns: "/run/netns/x", IfName: "eth0", Args: env, StdinData: []byte(text)}
	c, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	return c, args
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ env, conf, want string }{
		{"", "", "0123456789ab"},
		{"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=Web_Front.1", "", "web-front-1"},
		{"K8S_POD_NAME=-" + strings.Repeat("x", 70) + "-", "", strings.Repeat("x", 63)},
		{"K8S_POD_NAME=___", "", "0123456789ab"},
		{"K8S_POD_NAME=pod", "shop", "shop"},
		{"K8S_POD_NAME=pod;GRIDWIRE_NAME=Web", "shop", "web"},
		{"GRIDWIRE_NAME=no_name", "", "error: name \"no_name\""},
		{"GRIDWIRE_PORTS=http:8080/tcp,53/udp", "", "0123456789ab http=8080/tcp 53/udp"},
		{"GRIDWIRE_PORTS=http:0", "", "error: CNI_ARGS GRIDWIRE_PORTS: port"},
	} {
		cf, args := parsed(t, `{"name":"mesh","workload":"`+c.conf+`"}`, c.env)
		r, err := cf.request(args)
		got := strings.Join(append([]string{r.Name}, r.Ports...), " ")
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != c.want && !(strings.HasPrefix(c.want, "error: ") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s, %s: %q, want %q", c.env, c.conf, got, c.want)
		}
	}
}

func attached() *attach.Result {
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	return &attach.Result{
		Netns: "/run/netns/x", MAC: mac, HostMAC: mac,
		Plan: api.WorkloadPlan{
			Interface: "gw0-2", Addresses: []string{"fd00::2/128", "192.0.2.2/32"}, Gateway: "fe80::1", Overlay: []string{"fd00::/48", "10.77.0.0/16"},
			MTU: 1420, DNS: []string{"fd00::1"}, Domain: "farm.internal",
		},
	}
}

// TestResult: what the runtime is told in its own version, alone and behind another plugin.
func TestResult(t *testing.T) {
	c, args := parsed(t, `{"cniVersion":"1.0.0","name":"mesh","ports":["http=80"]}`, "")
	if r, err := c.request(args); err != nil || r.Ifname != "eth0" || r.Ports[0] != "http=80" || *r.Owner != (api.WorkloadOwner{Network: "mesh", Container: id, Interface: "eth0"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	res, err := c.result(attached(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Interfaces) != 2 || res.Interfaces[1].Name != "eth0" || res.Interfaces[1].Sandbox != "/run/netns/x" || *res.IPs[1].Interface != 1 ||
		!res.IPs[0].Gateway.Equal(gateway) || res.IPs[1].Gateway != nil || len(res.Routes) != 2 || res.DNS.Nameservers[0] != "fd00::1" || res.DNS.Search[0] != "farm.internal" {
		t.Errorf("%+v", res)
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if _, err := res.GetAsVersion(version); err != nil {
			t.Errorf("as version %s: %v", version, err)
		}
	}
	b, _ := json.Marshal(res)
	// CHECK and DEL get what ADD returned.
	after, args := parsed(t, `{"cniVersion":"1.0.0","name":"mesh","prevResult":`+string(b)+`}`, "")
	if got := after.made(args); got != "eth0" {
		t.Errorf("alone, it made %s", got)
	}
	before := `{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/run/netns/x"}],
		"ips":[{"interface":1,"address":"10.89.0.2/16","gateway":"10.89.0.1"}],"dns":{"nameservers":["10.89.0.1"]}}`
	chained, args := parsed(t, `{"cniVersion":"1.0.0","name":"mesh","interfaceName":"mesh0","prevResult":`+before+`}`, "")
	if got := chained.ifname(args); got != "mesh0" {
		t.Errorf("behind another plugin its interface is %s", got)
	}
	res, err = chained.result(attached(), "mesh0")
	if err != nil || len(res.Interfaces) != 4 || len(res.IPs) != 3 || *res.IPs[1].Interface != 3 || strings.Join(res.DNS.Nameservers, " ") != "fd00::1 10.89.0.1" {
		t.Errorf("%+v, %v", res, err)
	}
	b, _ = json.Marshal(res)
	after, args = parsed(t, `{"cniVersion":"1.0.0","name":"mesh","prevResult":`+string(b)+`}`, "") // interfaceName was changed meanwhile
	if got := after.made(args); got != "mesh0" {
		t.Errorf("behind another plugin, it made %s", got)
	}
	quiet, _ := parsed(t, `{"cniVersion":"1.0.0","name":"mesh","resolver":false}`, "")
	if res, err := quiet.result(attached(), "eth0"); err != nil || len(res.DNS.Nameservers) != 0 {
		t.Errorf("resolver off: %+v, %v", res.DNS, err)
	}
}

func TestParse(t *testing.T) {
	for _, text := range []string{"", "[]", `{"ports":8080}`, `{"cniVersion":"1.0.0","prevResult":{"interfaces":"x"}}`, `{"cniVersion":"9.9.9","prevResult":{}}`} {
		if _, err := parse(&skel.CmdArgs{StdinData: []byte(text)}); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	for _, name := range []string{"10-gridwire.conflist", "20-bridge-gridwire.conflist"} {
		b, err := os.ReadFile("../../deploy/cni/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Plugins []json.RawMessage
		}
		if err := json.Unmarshal(b, &list); err != nil || len(list.Plugins) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		d := json.NewDecoder(strings.NewReader(string(list.Plugins[len(list.Plugins)-1])))
		d.DisallowUnknownFields()
		if err := d.Decode(new(conf)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPlugin: whatever a runtime says, the plugin answers with an error or a request that can be asked.
func FuzzPlugin(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"mesh","ports":["http=80"]}`), "K8S_POD_NAME=web", id)
	f.Add([]byte(`{"cniVersion":"1.0.0","prevResult":{"interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"interface":7,"address":"10.0.0.1/8"}]}}`), "GRIDWIRE_NAME=x;;=", "")
	f.Fuzz(func(t *testing.T, config []byte, env, container string) {
		args := &skel.CmdArgs{ContainerID: container, IfName: "eth0", Args: env, StdinData: config}
		c, err := parse(args)
		if err != nil {
			return
		}
		_ = c.made(args)
		r, err := c.request(args)
		if err != nil {
			return
		}
		if r.Name == "" || len(r.Name) > 63 || r.Ifname == "" && c.Interface != "" {
			t.Fatalf("%+v", r)
		}
		if _, err := c.result(attached(), r.Ifname); err != nil && c.PrevResult == nil {
			t.Fatal(err)
		}
	})
}

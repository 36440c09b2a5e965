package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/gridwire/gridwire/mesh/pki"
)

func load(t *testing.T, file string, env map[string]string, args ...string) (*Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	Flags(fs)
	fs.String("state", "", "")
	fs.String("socket", "", "")
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fs.Parse(append([]string{"--config", path}, args...)); err != nil {
		return nil, err
	}
	return Load(fs, func(k string) string { return env[k] })
}

func TestPrecedence(t *testing.T) {
	c, err := load(t, "listen = 1\ninterface = \"file0\"\nname = \"filed\"\n",
		map[string]string{"GRIDWIRE_LISTEN": "2", "GRIDWIRE_INTERFACE": "env0"}, "--listen", "3")
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 3 || c.Interface != "env0" || c.Name != "filed" {
		t.Errorf("got port %d, interface %s, name %s; flags go before environment before file", c.Port, c.Interface, c.Name)
	}
}

func TestCertificateLifetime(t *testing.T) {
	c, err := load(t, "", nil)
	if err != nil || c.Lifetime != pki.DefaultLifetime {
		t.Errorf("default: %v, %v", c.Lifetime, err)
	}
	if c, err = load(t, "certificate-lifetime = \"168h\"\n", nil); err != nil || c.Lifetime != 7*24*time.Hour {
		t.Errorf("a week: %v, %v", c.Lifetime, err)
	}
}

func TestDNSUpstreamMayLeaveThePortOut(t *testing.T) {
	c, err := load(t, "[dns]\nupstream = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.DNS.Upstream) != 2 || c.DNS.Upstream[0].String() != "192.0.2.53:53" || c.DNS.Upstream[1].Port() != 5353 || !c.DNS.Serve {
		t.Errorf("%+v", c.DNS)
	}
}

func TestTheResolverCanBeLeftAlone(t *testing.T) {
	for what, tc := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want bool
	}{
		"by default": {want: true},
		"file":       {file: "[dns]\nconfigure = false\n"},
		"env":        {env: map[string]string{"GRIDWIRE_RESOLVER": "off"}},
		"flag":       {env: map[string]string{"GRIDWIRE_RESOLVER": "off"}, args: []string{"--resolver", "on"}, want: true},
	} {
		c, err := load(t, tc.file, tc.env, tc.args...)
		if err != nil || c.DNS.Configure != tc.want || !c.DNS.Serve || c.DNS.Helper != DefaultResolverHelper {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
}

func TestBadInputIsAnErrorBeforeAnythingStarts(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want string
	}{
		"unknown key":    {file: "listne = 1\n", want: "unknown key"},
		"not toml":       {file: "listen: 1\n", want: "configuration file"},
		"name":           {args: []string{"--name", "no_dots.here"}, want: "DNS label"},
		"interface":      {args: []string{"--interface", "much-too-long-for-linux"}, want: "1 to 15"},
		"advertise":      {args: []string{"--advertise", "198.51.100.7"}, want: "HOST:PORT"},
		"advertise zero": {args: []string{"--advertise", "198.51.100.7:0"}, want: "1 to 65535"},
		"metrics":        {args: []string{"--metrics", "yes"}, want: "'overlay' or 'off'"},
		"metrics list":   {args: []string{"--metrics", "127.0.0.1:9586,off"}, want: "'overlay' or 'off'"},
		"metrics empty":  {args: []string{"--metrics", ""}, want: "'overlay' or 'off'"},
		"metrics twice":  {args: []string{"--metrics", "overlay,overlay"}, want: "there twice"},
		"page":           {args: []string{"--page", "localhost"}, want: "want ADDRESS:PORT"},
		"mtu":            {args: []string{"--mtu", "1200"}, want: "1280"},
		"lifetime":       {args: []string{"--certificate-lifetime", "29s"}, want: "like 168h"},
		"lifetime unit":  {env: map[string]string{"GRIDWIRE_CERTIFICATE_LIFETIME": "30"}, want: "like 168h"},
		"level":          {args: []string{"--log-level", "loud"}, want: "debug, info"},
		"dns upstream":   {file: "[dns]\nupstream = [\"resolver\"]\n", want: "dns.upstream"},
		"dns unknown":    {file: "[dns]\nupsteam = []\n", want: "unknown key"},
		"networks":       {file: "[networks]\nkeep-sources = \"yes\"\n", want: "keep-sources"},
		"dns nobody":     {file: "[dns]\nserve = false\nupstream = [\"192.0.2.53\"]\n", want: "contradicts"},
		"dns helper":     {file: "[dns]\nhelper = \"helper.sock\"\n", want: "path of a socket"},
		"resolver":       {args: []string{"--resolver", "maybe"}, want: "'on' or 'off'"},
		"env resolver":   {env: map[string]string{"GRIDWIRE_RESOLVER": "1"}, want: "GRIDWIRE_RESOLVER"},
		"env port":       {env: map[string]string{"GRIDWIRE_LISTEN": "70000"}, want: "no port number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tc.file, tc.env, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a sentence with %q", err, tc.want)
			}
		})
	}
}

func TestMetricsMayBeServedInSeveralPlaces(t *testing.T) {
	for word, want := range map[string][]string{
		"":                        {"127.0.0.1:9586"},
		"off":                     nil,
		"overlay":                 {"overlay"},
		"127.0.0.1:9586, overlay": {"127.0.0.1:9586", "overlay"},
	} {
		var args []string
		if word != "" {
			args = []string{"--metrics", word}
		}
		c, err := load(t, "", nil, args...)
		if err != nil || !slices.Equal(c.Metrics, want) {
			t.Errorf("--metrics %q: %v, %v, want %v", word, c.Metrics, err, want)
		}
	}
}

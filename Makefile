# gridwire. `make` alone says what there is.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Go where its installer puts it, and the system's tools where an ordinary user's PATH lacks them.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
LDFLAGS     := -s -w -X github.com/gridwire/gridwire/agent.Version=$(VERSION)
BIN         := $(CURDIR)/bin/gridwire

# Unpacked, not installed: installed, their services would start here, or take over this machine's resolver.
DEBS := $(CURDIR)/bin/deb

# Namespaces need root: who is not gets asked for the password by sudo.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
AS   := $(ROOT) env PATH="$$PATH" GRIDWIRE_BIN=$(BIN) GRIDWIRE_DEBS=$(DEBS)
# Commands and their packages.
DEMO_NEEDS := ip:iproute2 nft:nftables conntrack ping:iputils-ping tcpdump wg:wireguard-tools curl ps:procps setpriv:util-linux
TEST_NEEDS := iperf3 openssl jq dig:dnsutils tmux dnsperf dbus-daemon gcc:gcc+libc6-dev chromium:chromium+fonts-dejavu-core
UNPACKED := systemd-resolved libsystemd-shared libip4tc2 libkmod2 libseccomp2 resolvconf openresolv network-manager libndp0 libnm0 dnsmasq-base prometheus containernetworking-plugins podman conmon crun busybox-static libyajl2? libgpgme11? libsubid4?
# What Prometheus' own pages need, but for moment-timezone, which is 200 MB and missed by nobody.
PAGES := $(addprefix libjs-,bootstrap4 d3 eonasdan-bootstrap-datetimepicker jquery jquery-hotkeys moment mustache popper.js rickshaw) fonts-glyphicons-halflings
# Two packages at once: what a machine with two cores does well, and what the time limits in the tests are made for.
TEST := $(GO) test -p 2 -parallel 2 -exec "$(AS)"

.PHONY: help go build test tools testtools check unit e2e demo observe screenshots bench vuln install uninstall clean

help: ## this list
	@echo 'gridwire: an encrypted WireGuard mesh that belongs to its members.'
	@echo
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo 'PREFIX=/usr/local and DESTDIR= say where install puts things. README.md is the place to begin.'

build: ## bin/gridwire, one static binary, and bin/gridwire-cni for container runtimes
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/gridwire
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.build=$(VERSION)' -o $(BIN)-cni ./cmd/gridwire-cni

demo: tools build ## a mesh forming across real NATs on this machine, and its founder dying
	@$(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@$(AS) bin/demo

observe: tools build ## the demo's mesh, watched by a real Prometheus (and Grafana, where it is installed)
	@! command -v apt-get >/dev/null || e2e/unpack $(DEBS) prometheus $(PAGES)
	@$(GO) build -buildvcs=false -o bin/demo ./e2e/demo
	@$(AS) bin/demo -observe deploy

test: testtools check unit e2e ## everything: static checks, unit tests with -race, the real binary in namespaces

check: ## gofmt, go vet, staticcheck
	@bad=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .); if [ -n "$$bad" ]; then echo "not as gofmt would have it:" $$bad >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

unit: ## unit and in-process tests, with the race detector
	CGO_ENABLED=1 $(TEST) -race -timeout 8m $$($(GO) list ./... | grep -v /e2e)

e2e: build ## the real binary in network namespaces
	$(TEST) -p 1 -parallel 4 -count 1 -timeout 25m ./e2e/...

screenshots: testtools ## the pictures of the health page in docs/pictures
	@mkdir -p docs/pictures
	$(GO) test -count 1 ./e2e/page -run 'TestThePageAtEverySize|TestALinksLastDay' -args -screenshots $(CURDIR)/docs/pictures

bench: testtools build ## the numbers: throughput, time to connect, idle cost (BENCH="..." for flags)
	@$(GO) build -buildvcs=false -o bin/bench ./e2e/bench
	@$(AS) bin/bench -binary $(BIN) $(BENCH)

vuln: ## known vulnerabilities in what we link (asks a database on the internet)
	$(GO) run $(GOVULNCHECK) ./...

go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: https://go.dev/doc/install (1.21 or newer fetches the version in go.mod itself)' >&2; exit 1; }

tools: go ## Debian packages that the demo needs, if one is missing
	@e2e/install $(DEMO_NEEDS)

testtools: go ## those that the tests need: more, a browser among them
	@e2e/install $(DEMO_NEEDS) $(TEST_NEEDS)
	@! command -v apt-get >/dev/null || e2e/unpack $(DEBS) $(UNPACKED)

LIB := $(DESTDIR)$(PREFIX)/lib
SHARE := $(DESTDIR)$(PREFIX)/share/gridwire
# polkit looks nowhere below /usr/local.
POLKIT := $(DESTDIR)/usr/share/polkit-1/rules.d

install: $(BIN) $(BIN)-cni ## binary, systemd unit, user, folders (make build && sudo make install)
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/gridwire
	install -D -m 0755 $(BIN)-cni $(LIB)/cni/gridwire-cni
	install -D -m 0644 deploy/gridwire.service $(LIB)/systemd/system/gridwire.service
	install -D -m 0644 deploy/gridwire-resolver.socket $(LIB)/systemd/system/gridwire-resolver.socket
	install -D -m 0644 deploy/gridwire-resolver@.service $(LIB)/systemd/system/gridwire-resolver@.service
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(LIB)/systemd/system/gridwire.service $(LIB)/systemd/system/gridwire-resolver@.service
	install -D -m 0644 deploy/polkit.rules $(POLKIT)/60-gridwire.rules
	install -D -m 0644 deploy/sysusers.conf $(LIB)/sysusers.d/gridwire.conf
	install -D -m 0644 deploy/tmpfiles.conf $(LIB)/tmpfiles.d/gridwire.conf
	install -D -m 0644 -t $(SHARE)/prometheus deploy/prometheus/*.yml
	install -D -m 0644 -t $(SHARE)/grafana/dashboards deploy/grafana/dashboards/*.json
	install -D -m 0644 -t $(SHARE)/grafana/provisioning/datasources deploy/grafana/provisioning/datasources/*.yml
	install -D -m 0644 -t $(SHARE)/grafana/provisioning/dashboards deploy/grafana/provisioning/dashboards/*.yml
	sed -i 's|/usr/local/share/|$(PREFIX)/share/|' $(SHARE)/grafana/provisioning/dashboards/gridwire.yml
	@[ -n "$(DESTDIR)" ] || deploy/activate $(LIB)

uninstall: ## the same in reverse; the state in /var/lib/gridwire stays
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl disable --now gridwire gridwire-resolver.socket 2>/dev/null || true
	rm -rf $(SHARE)
	rm -f $(DESTDIR)$(PREFIX)/bin/gridwire $(LIB)/cni/gridwire-cni $(LIB)/systemd/system/gridwire.service $(LIB)/sysusers.d/gridwire.conf $(LIB)/tmpfiles.d/gridwire.conf
	rm -f $(LIB)/systemd/system/gridwire-resolver.socket $(LIB)/systemd/system/gridwire-resolver@.service $(POLKIT)/60-gridwire.rules
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl daemon-reload
	@echo 'The keys in /var/lib/gridwire and the user gridwire are still there.'

# install must not need Go where somebody has built already: root often has another PATH.
$(BIN) $(BIN)-cni:
	$(MAKE) build

clean: ## removes bin
	rm -rf bin

package metrics

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Port is where a member that serves metrics to the others (`--metrics overlay`) does so.
const Port = 9586

// Member is one target of service discovery.
type Member struct {
	Name, ID, Version string // Version: the agent's, as the member's record says; empty: not known
	Addr              netip.Addr
	Tags              []string
	NAT               string // as the member's record says; empty: not known
	Issuer, Self      bool
}

// Members returns the network's name and everybody in it.
type Members func() (network string, members []Member)

// targetGroup is an element of what Prometheus' http_sd reads
// (https://prometheus.io/docs/prometheus/latest/http_sd/).
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// Discovery answers Prometheus' http_sd with one target for each member, this node included, at its overlay address. The labels are
// Prometheus' meta labels, which relabelling sees and the time series do not, and one that they do: instance, the member's name, which is
// what a person looks for and stays when nothing else does.
//
// Every member is a target, whether it serves metrics or not: nobody else knows that, and up{instance="bob"} == 0 is what an operator who
// expects bob to wants to see.
func Discovery(members Members) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		network, all := members()
		groups := make([]targetGroup, 0, len(all)) // an empty list is [], not null: Prometheus refuses that
		for _, m := range all {
			groups = append(groups, m.group(network))
		}
		slices.SortFunc(groups, func(a, b targetGroup) int { return strings.Compare(a.Labels["instance"], b.Labels["instance"]) })
		w.Header().Set("Content-Type", "application/json") // Prometheus demands it
		_ = json.NewEncoder(w).Encode(groups)
	})
}

func (m Member) group(network string) targetGroup {
	tags := "" // commas around each, so that a regular expression finds a whole tag: .*,barn,.*
	if len(m.Tags) > 0 {
		tags = "," + strings.Join(m.Tags, ",") + ","
	}
	return targetGroup{
		Targets: []string{netip.AddrPortFrom(m.Addr, Port).String()},
		Labels: map[string]string{
			"instance":                m.Name,
			"__meta_gridwire_network": network,
			"__meta_gridwire_member":  m.Name,
			"__meta_gridwire_id":      m.ID,
			"__meta_gridwire_tags":    tags,
			"__meta_gridwire_version": m.Version,
			"__meta_gridwire_nat":     m.NAT,
			"__meta_gridwire_issuer":  strconv.FormatBool(m.Issuer),
			"__meta_gridwire_self":    strconv.FormatBool(m.Self),
		},
	}
}

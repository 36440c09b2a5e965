package metrics

import "github.com/prometheus/client_golang/prometheus"

// id names a metric in specs.
type id int

const (
	buildInfo id = iota
	uptime
	interfaceSpeed
	natInfo
	members
	peersByState
	peersAggregated
	certificateExpiry
	controlConnections
	relayedBytes
	probesSent
	probeBytes
	dnsQueries
	dnsServing
	dnsResolver
	peerUp
	peerPath
	peerRTT
	peerJitter
	peerLoss
	peerReceiveBytes
	peerTransmitBytes
	peerReceivePackets
	peerTransmitPackets
	peerHandshake
	peerLastSeen
	peerConnect
	peerPathChanges
	peerMTU
	peerSkew
	usageDisputed
	workloadUp
	workloadReceiveBytes
	workloadTransmitBytes
	workloadReceivePackets
	workloadTransmitPackets
)

// spec describes a metric; docs/operations.md has the same as a table, and a test compares them.
type spec struct {
	name   string
	kind   string // as Prometheus writes it
	labels []string
	help   string
}

const (
	gauge     = "gauge"
	counter   = "counter"
	histogram = "histogram"
)

func labels(names ...string) []string { return names }

// specs are all metrics of gridwire, without the prefix gridwire_.
var specs = [...]spec{
	buildInfo:          {"build_info", gauge, labels("version"), "The agent's version; always 1."},
	uptime:             {"uptime_seconds", gauge, nil, "Time since the agent was started."},
	interfaceSpeed:     {"interface_speed_bytes_per_second", gauge, labels("interface"), "Speed of the machine's network interfaces, where the system knows it."},
	natInfo:            {"nat_info", gauge, labels("type"), "This machine's NAT type; always 1."},
	members:            {"members", gauge, nil, "Members of the network, this node included, online or not."},
	peersByState:       {"peers", gauge, labels("state"), "Peers by the state of the link to them."},
	peersAggregated:    {"peers_aggregated", gauge, nil, "Peers that have no series of their own and are counted under peer=\"other\"."},
	certificateExpiry:  {"certificate_expiry_timestamp_seconds", gauge, nil, "Unix time at which this node's certificate expires."},
	controlConnections: {"control_connections", gauge, nil, "Control connections to proven members."},
	relayedBytes:       {"relayed_bytes_total", counter, nil, "Bytes that this node has relayed between other members; this version relays for nobody."},
	probesSent:         {"probes_sent_total", counter, nil, "Probes sent inside the tunnel to measure links and keep NATs open."},
	probeBytes:         {"probe_bytes_total", counter, nil, "Bytes that these and the answers to others' probes took, as WireGuard messages."},
	dnsQueries:         {"dns_queries_total", counter, labels("type", "rcode"), "DNS questions answered, by type and response code."},
	dnsServing:         {"dns_serving", gauge, nil, "1 while the agent answers DNS for the network's domain, else 0."},
	dnsResolver:        {"dns_resolver_configured", gauge, nil, "1 while the system's resolver asks the agent for the network's domain, else 0."},

	peerUp:              {"peer_up", gauge, labels("peer"), "1 if WireGuard carries packets to the peer both ways (or did when the link was last used), else 0."},
	peerPath:            {"peer_path_info", gauge, labels("peer", "kind", "family", "local_type", "remote_type"), "How packets to the peer travel; always 1."},
	peerRTT:             {"peer_rtt_seconds", histogram, labels("peer"), "Round trip times of probes inside the tunnel."},
	peerJitter:          {"peer_jitter_seconds", gauge, labels("peer"), "Mean difference of the round trip time from one probe to the next (RFC 3550, 6.4.1)."},
	peerLoss:            {"peer_loss_ratio", gauge, labels("peer", "window"), "Share of probes that were not answered, over 1m, 5m and 15m; each only with at least 20 probes in it."},
	peerReceiveBytes:    {"peer_receive_bytes_total", counter, labels("peer"), "Bytes received from the peer, WireGuard's overhead included, over all starts of the agent."},
	peerTransmitBytes:   {"peer_transmit_bytes_total", counter, labels("peer"), "Bytes sent to the peer, WireGuard's overhead included, over all starts of the agent."},
	peerReceivePackets:  {"peer_receive_packets_total", counter, labels("peer"), "Packets of the overlay received from the peer, over all starts of the agent."},
	peerTransmitPackets: {"peer_transmit_packets_total", counter, labels("peer"), "Packets of the overlay sent to the peer, over all starts of the agent."},
	peerHandshake:       {"peer_last_handshake_timestamp_seconds", gauge, labels("peer"), "Unix time of the last WireGuard handshake with the peer; 0 if there was none."},
	peerLastSeen:        {"peer_last_seen_timestamp_seconds", gauge, labels("peer"), "Unix time of the peer's newest sign of life: a packet, or a record that it has signed."},
	peerConnect:         {"peer_time_to_connect_seconds", gauge, labels("peer"), "How long the link to the peer took to come up the last time."},
	peerPathChanges:     {"peer_path_changes_total", counter, labels("peer"), "How often the link came to work by another address of the peer, since the agent was started."},
	peerMTU:             {"peer_mtu_bytes", gauge, labels("peer"), "Largest packet that the link to the peer carries, where it has been found out."},
	peerSkew:            {"peer_clock_skew_seconds", gauge, labels("peer"), "How far the peer's clock is ahead of this machine's, where it has told."},
	usageDisputed:       {"usage_disputed", gauge, labels("peer"), "1 if the peer has refused this node's traffic counters or its own differ from them, else 0."},

	workloadUp:              {"workload_up", gauge, labels("workload"), "1 if the workload is there, and so has its name, else 0."},
	workloadReceiveBytes:    {"workload_receive_bytes_total", counter, labels("workload"), "Bytes that the workload received through the mesh, over all starts of the agent."},
	workloadTransmitBytes:   {"workload_transmit_bytes_total", counter, labels("workload"), "Bytes that the workload sent through the mesh, over all starts of the agent."},
	workloadReceivePackets:  {"workload_receive_packets_total", counter, labels("workload"), "Packets that the workload received through the mesh, over all starts of the agent."},
	workloadTransmitPackets: {"workload_transmit_packets_total", counter, labels("workload"), "Packets that the workload sent through the mesh, over all starts of the agent."},
}

func newDescs() (out [len(specs)]*prometheus.Desc) {
	for i, s := range specs {
		out[i] = prometheus.NewDesc("gridwire_"+s.name, s.help, s.labels, nil)
	}
	return out
}

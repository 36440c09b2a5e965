// Package lab builds an internet of Linux network namespaces and runs the real gridwire binary in it. Tests, benchmarks and
// `make demo` share it.
//
// A Lab owns namespaces named lab-PID-N-NAME, the processes in them, and a folder in /run/gridwire-lab that says whose they are.
// The internet is a namespace that routes: each port is a link of its own with static neighbours, so that, as in the real one, no
// multicast and no ARP crosses it, and packets to addresses that nobody has vanish silently. With a Delay every port runs through
// a pair of AF_PACKET sockets that hold frames back (netem is not in every kernel). Behind the internet there are public hosts, routers
// with NATs by nftables (RFC 4787), which can stand behind each other, and the hosts behind them. A LAN is a switch with nothing else.
//
// All of it is gone after Close; after a panic or a SIGKILL too, because a small process waits for this one to end (see sweep.go).
//
// The package never touches the namespace it is started in, the machine's resolver or D-Bus, or a process it did not start. Agents here leave
// the resolver alone unless told otherwise; who wants to see one configured gives the host an /etc, a /run and programs of its own (Machine),
// in which a whole systemd-resolved or NetworkManager can run. It needs root
// and the Debian packages iproute2, nftables, conntrack and iputils-ping.
package lab

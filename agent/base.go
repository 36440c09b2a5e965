package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/config"
	"github.com/gridwire/gridwire/agent/tunnel"
	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control"
	"github.com/gridwire/gridwire/mesh/enrol"
	"github.com/gridwire/gridwire/mesh/store"
	"github.com/gridwire/gridwire/mesh/wire"
	"github.com/gridwire/gridwire/nat/sock"
)

// socketMark keeps the shared socket's packets out of routed prefixes (SO_MARK; also what `wg show` prints as fwmark).
const socketMark = 0x67770000

// base is what works before this machine is a member: the shared socket with WireGuard on it, and the control plane's host, with which
// it can enrol.
type base struct {
	sock *sock.Sock
	tag  [4]byte
	tun  *tunnel.Tunnel
	host *control.Host
	// overlay is set once the network is known: its addresses are no underlay.
	overlay *overlay
}

// overlay says which addresses belong to the network itself, and so can be no underlay address.
type overlay struct{ network atomic.Pointer[mesh.Network] }

// ok reports whether a may be an underlay address.
func (o *overlay) ok(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() && a.Is6() {
		return false
	}
	n := o.network.Load()
	return n == nil || !n.IPv6.Contains(a) && !(n.IPv4.IsValid() && n.IPv4.Contains(a))
}

func newBase(cfg *config.Config, st *store.Store, keys enrol.Keys, log *slog.Logger) (*base, error) {
	b := &base{overlay: &overlay{}}
	if _, err := rand.Read(b.tag[:]); err != nil {
		return nil, fmt.Errorf("draw the STUN tag: %w", err)
	}
	b.sock = sock.New(sock.Config{Log: log.With("part", "socket"), TransactionTag: b.tag})
	var err error
	b.tun, err = openTunnel(cfg, st, keys, b.sock, log)
	if err != nil {
		return nil, err
	}
	b.host, err = control.NewHost(control.HostConfig{
		Identity: keys.Identity, Sockets: b.sock.QUIC, Port: b.tun.Port(), AddressOK: b.overlay.ok, Log: log.With("part", "control"),
	})
	if err != nil {
		return nil, errors.Join(err, b.tun.Close())
	}
	return b, nil
}

// Close closes the host before the socket under it.
func (b *base) Close() error { return errors.Join(b.host.Close(), b.tun.Close()) }

const portFile = "port"

// openTunnel opens the shared UDP port: the one that was asked for, else the one of last time (a NAT's mapping and others' memory of this
// node hang on it), else the default, else any free one.
func openTunnel(cfg *config.Config, st *store.Store, keys enrol.Keys, bind *sock.Sock, log *slog.Logger) (*tunnel.Tunnel, error) {
	ports := []uint16{cfg.Port}
	if cfg.Port == 0 {
		ports = []uint16{config.DefaultPort, 0}
		if p := rememberedPort(st); p != 0 {
			ports = []uint16{p, config.DefaultPort, 0}
		}
	}
	var err error
	for _, port := range ports {
		var t *tunnel.Tunnel
		t, err = tunnel.New(tunnel.Config{
			Interface: cfg.Interface, MTU: cfg.MTU, PrivateKey: keys.WireGuard, Port: port, Mark: socketMark, Bind: bind, Log: log.With("part", "tunnel"),
		})
		if err == nil {
			if werr := st.WriteCache(portFile, []byte(strconv.Itoa(int(t.Port())))); werr != nil {
				log.Warn("could not remember the port", "err", werr)
			}
			return t, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, err
}

func rememberedPort(st *store.Store) uint16 {
	b, err := st.ReadCache(portFile)
	if err != nil {
		return 0
	}
	p, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(p)
}

// JoinAlone enrols this machine without a running agent, over sockets of its own.
func JoinAlone(ctx context.Context, state string, req api.JoinRequest, log *slog.Logger) (*api.JoinResponse, error) {
	st, err := store.Open(state)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	if m, err := enrol.Load(st); err == nil {
		return nil, alreadyMember(m)
	}
	t, err := wire.DecodeToken(req.Token)
	if err != nil {
		return nil, err
	}
	var m *enrol.Membership
	if t.Offline != nil {
		if m, err = enrol.JoinOffline(t, time.Now()); err == nil {
			err = enrol.Save(st, m)
		}
	} else {
		m, err = joinWithHost(ctx, st, t, req.Name, log)
	}
	if err != nil {
		return nil, err
	}
	return joinResponse(m)
}

func joinWithHost(ctx context.Context, st *store.Store, t *wire.Token, name mesh.Name, log *slog.Logger) (*enrol.Membership, error) {
	keys, err := enrol.EnsureKeys(st)
	if err != nil {
		return nil, err
	}
	var conns []net.PacketConn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	host, err := control.NewHost(control.HostConfig{
		Identity: keys.Identity, AddressOK: (&overlay{}).ok, Log: log,
		Sockets: func(network string) (net.PacketConn, error) {
			c, err := net.ListenUDP(network, nil)
			if err == nil {
				conns = append(conns, c)
			}
			return c, err
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = host.Close() }()
	return joinOver(ctx, st, t, keys, name, host.OpenEnrol)
}

func alreadyMember(m *enrol.Membership) error {
	root, leaf, _, err := m.Leaf()
	if err != nil {
		return fmt.Errorf("this machine holds a membership that cannot be read: %w", err)
	}
	return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("this machine is %s in %s already; `gridwire leave` first", leaf.Name, root.Network.Name)}
}

func joinResponse(m *enrol.Membership) (*api.JoinResponse, error) {
	root, leaf, _, err := m.Leaf()
	if err != nil {
		return nil, err
	}
	return &api.JoinResponse{Network: string(root.Network.Name), Name: string(leaf.Name), Addrs: prefixes(leaf.Addrs)}, nil
}

// prefixes writes addresses as status --json shows them: with /128 or /32.
func prefixes(addrs []netip.Addr) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return out
}

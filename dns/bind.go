package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// bind binds one address for UDP and TCP, on one interface unless that is empty.
func bind(a netip.AddrPort, iface string) (*socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return onInterface(c, iface) }}
	var errs error
	for range 8 { // with port 0, TCP's choice may be taken for UDP
		k, err := bindOnce(&lc, a)
		if err == nil {
			growBuffer(k.udp)
			return k, nil
		}
		errs = err
		if a.Port() != 0 {
			break
		}
	}
	if errors.Is(errs, syscall.EADDRINUSE) {
		errs = fmt.Errorf("%w: another DNS server listens on all addresses (find it with: ss -lnp sport = :%d); let it bind its own ones only", errs, a.Port())
	}
	return nil, errs
}

func bindOnce(lc *net.ListenConfig, a netip.AddrPort) (*socket, error) {
	l, err := lc.Listen(context.Background(), "tcp", a.String())
	if err != nil {
		return nil, err
	}
	pc, err := lc.ListenPacket(context.Background(), "udp", l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &socket{udp: pc.(*net.UDPConn), tcp: l.(*net.TCPListener)}, nil
}

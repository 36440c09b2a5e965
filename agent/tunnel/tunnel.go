// Package tunnel runs the WireGuard tunnel: wireguard-go's device between a TUN interface and the shared UDP socket.
//
// It owns the interface, the device and the device's UAPI socket, /var/run/wireguard/NAME.sock, so that `wg show` works. Peers are
// configured through wgctrl, as they would be for a kernel device; only what wgctrl cannot do (force a handshake, read counters each
// second cheaply) uses the device in this process. It also gives back the memory that wireguard-go's buffer pools keep after a burst.
//
// It never decides who is a peer or where a peer is, never sets addresses or routes (agent/route does, and brings the link up), and
// puts nothing between the device and the socket: packets pass through no lock or goroutine of this package.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/gridwire/gridwire/mesh"
)

const (
	// DefaultMTU leaves room for IPv6, UDP and WireGuard headers (40+8+32) in a 1500 byte underlay packet.
	DefaultMTU = device.DefaultMTU
	// MinMTU is what IPv6 demands of a link (RFC 8200, 5). Linux removes an interface's IPv6 addresses when its MTU goes below.
	MinMTU = 1280
)

// ErrClosed is what methods return after Close.
var ErrClosed = errors.New("the tunnel is closed")

// ErrNoPeer is what SetEndpoint and Handshake return for a key that no peer has.
var ErrNoPeer = errors.New("no such WireGuard peer")

// Config says what tunnel to make.
type Config struct {
	Interface  string   // name of the TUN interface, 1 to 15 bytes
	MTU        int      // bytes; 0: DefaultMTU; at least MinMTU
	PrivateKey [32]byte // X25519
	Port       uint16   // UDP; 0: any free one
	Mark       uint32   // SO_MARK of the UDP socket; 0: none
	Bind       conn.Bind
	Log        *slog.Logger // nil: silent
}

// Tunnel is a running WireGuard device. All methods may be called from any goroutine.
type Tunnel struct {
	name string
	log  *slog.Logger
	tun  *countedTUN
	dev  *device.Device
	uapi *uapiServer
	wg   *wgctrl.Client
	port atomic.Uint32

	mu    sync.Mutex // guards tried; held for moments only
	tried map[mesh.WGKey]attempt

	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// New creates the interface (down, without addresses), the device and its UAPI socket, and opens the UDP socket, which has a port from
// then on. As with any wireguard-go device, its goroutines run from here until Close; so do those that serve the UAPI socket, because
// SetPeer needs them. On error nothing is left behind. Errors are sentences that name a missing capability and what to do.
func New(c Config) (*Tunnel, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	dev, err := openTUN(c.Interface, c.MTU)
	if err != nil {
		return nil, err
	}
	t := &Tunnel{name: c.Interface, log: c.Log, tun: countPackets(dev, c.MTU), tried: map[mesh.WGKey]attempt{}, closing: make(chan struct{})}
	t.dev = device.NewDevice(t.tun, c.Bind, deviceLogger(c.Log))
	if err := t.start(c); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// start does what can fail after the interface and the device exist.
func (t *Tunnel) start(c Config) (err error) {
	if t.uapi, err = serveUAPI(t.name, t.dev.IpcHandle); err != nil {
		return err
	}
	if t.wg, err = wgctrl.New(); err != nil {
		return fmt.Errorf("opening a WireGuard control client for interface %s: %w", t.name, err)
	}
	key, port, mark := wgtypes.Key(c.PrivateKey), int(c.Port), int(c.Mark)
	err = t.wg.ConfigureDevice(t.name, wgtypes.Config{PrivateKey: &key, ListenPort: &port, FirewallMark: &mark})
	if err != nil {
		return fmt.Errorf("giving interface %s its WireGuard key and port: %w", t.name, err)
	}
	if err := t.dev.Up(); err != nil {
		return bindError(c, err)
	}
	_, err = t.Stats()
	return err
}

func (c *Config) check() error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	switch {
	case c.Bind == nil:
		return errors.New("a tunnel needs a socket: Config.Bind is not set")
	case c.PrivateKey == [32]byte{}:
		return errors.New("a tunnel needs a WireGuard private key: Config.PrivateKey is not set")
	case c.MTU < MinMTU:
		return fmt.Errorf("MTU %d for interface %s is too small: IPv6 needs at least %d", c.MTU, c.Interface, MinMTU)
	case c.MTU > device.MaxContentSize:
		return fmt.Errorf("MTU %d for interface %s is too large: at most %d", c.MTU, c.Interface, device.MaxContentSize)
	}
	return checkName(c.Interface)
}

func bindError(c Config, err error) error {
	what := fmt.Sprintf("opening UDP port %d", c.Port)
	if c.Port == 0 {
		what = "opening a UDP port"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s for interface %s: another program uses it; stop it or choose another port with --listen: %w", what, c.Interface, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s for interface %s: ports below 1024 need the capability CAP_NET_BIND_SERVICE, which this process lacks: %w", what, c.Interface, err)
	case errors.Is(err, syscall.EPERM) && c.Mark != 0:
		return fmt.Errorf("%s for interface %s with mark %#x: %s: %w", what, c.Interface, c.Mark, needNetAdmin, err)
	}
	return fmt.Errorf("%s for interface %s: %w", what, c.Interface, err)
}

// Run gives memory back after bursts and keeps the UAPI socket in its place. It returns nil when ctx ends or Close is called, and an
// error when the interface was taken away. It does not close the tunnel.
func (t *Tunnel) Run(ctx context.Context) error {
	tick := time.NewTimer(time.Until(NextRest(time.Now())))
	defer tick.Stop()
	settled := time.NewTimer(settleAfter)
	defer settled.Stop()
	gc := newCollector()
	gc.set(quietGC)
	defer gc.restore()
	var m trimmer
	lost := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.closing:
			return nil
		case <-t.dev.Wait():
			return t.gone()
		case <-settled.C:
			if !m.busy() { // else it will be trimmed when it no longer is
				releaseMemory()
			}
		case now := <-tick.C:
			trim := m.step(t.tun.packets.Load(), now)
			if m.busy() {
				gc.set(busyGC)
			} else {
				gc.set(quietGC)
			}
			if trim {
				releaseMemory()
			}
			t.tun.lookAtMTU()
			lost = t.guardSocket(lost)
			tick.Reset(time.Until(NextRest(time.Now())))
		}
	}
}

// guardSocket makes the UAPI socket again if somebody removed it, and returns whether that failed; failed says whether it did before.
// Links go on without it, so this is no reason to end.
func (t *Tunnel) guardSocket(failed bool) bool {
	restored, err := t.uapi.restore()
	switch {
	case err != nil && !failed:
		t.log.Warn("the UAPI socket is gone and cannot be made again: peers cannot be changed until it is", "interface", t.name, "error", err)
	case restored:
		t.log.Warn("somebody removed the UAPI socket: made it again", "interface", t.name, "socket", sockPath(t.name))
	}
	return err != nil
}

// gone says why the device closed itself, which wireguard-go does when it cannot read from the interface any more.
func (t *Tunnel) gone() error {
	select {
	case <-t.closing:
		return nil
	default:
		return fmt.Errorf("interface %s was taken away (`ip link delete`?): the tunnel has ended; start the agent again", t.name)
	}
}

// Port returns the UDP port of the tunnel's socket, as of New or the last Stats.
func (t *Tunnel) Port() uint16 { return uint16(t.port.Load()) }

// Interface returns the name of the TUN interface.
func (t *Tunnel) Interface() string { return t.name }

// Close ends the device and removes the interface and the UAPI socket. It closes the bind. A second call returns what the first did.
func (t *Tunnel) Close() error {
	t.closeOnce.Do(func() {
		close(t.closing)
		var errs []error
		if t.uapi != nil { // first, so that nobody configures a closing device
			errs = append(errs, t.uapi.Close())
		}
		t.dev.Close()
		<-t.tun.done
		if t.wg != nil {
			errs = append(errs, t.wg.Close())
		}
		if err := errors.Join(errs...); err != nil {
			t.closeErr = fmt.Errorf("closing tunnel %s: %w", t.name, err)
		}
	})
	return t.closeErr
}

func (t *Tunnel) closed() bool {
	select {
	case <-t.closing:
		return true
	case <-t.dev.Wait():
		return true
	default:
		return false
	}
}

// deviceLogger hands wireguard-go's lines on at debug level. Its "errors" are one line for each attempt ("no known endpoint for peer"),
// and whoever owns a retry logs its changes of state; what ends the device is reported by New and Run.
func deviceLogger(log *slog.Logger) *device.Logger {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	return &device.Logger{
		Verbosef: func(format string, args ...any) { log.Debug("wireguard: " + fmt.Sprintf(format, args...)) },
		Errorf:   func(format string, args ...any) { log.Debug("wireguard error: " + fmt.Sprintf(format, args...)) },
	}
}

// isPermission reports EPERM and EACCES.
func isPermission(err error) bool { return errors.Is(err, os.ErrPermission) }

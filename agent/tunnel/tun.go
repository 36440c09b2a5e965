package tunnel

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/gridwire/gridwire/agent/meter"
)

const tunPath = "/dev/net/tun"

const needNetAdmin = "this needs the capability CAP_NET_ADMIN, which this process lacks: run it as root, with AmbientCapabilities=CAP_NET_ADMIN in " +
	"its systemd unit, or with `--cap-add NET_ADMIN` in its container"

// checkName applies the kernel's rules (dev_valid_name), and forbids '%', which the kernel would replace by a number.
func checkName(name string) error {
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("interface name %q has %d bytes, want 1 to %d", name, len(name), unix.IFNAMSIZ-1)
	}
	bad := func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' }
	if name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("interface name %q: use letters, digits, '-', '_' and '.' only", name)
	}
	return nil
}

// openTUN creates the interface. It does what tun.CreateTUN does, one step at a time, so that each failure can say what is lacking, and
// with IFF_TUN_EXCL, so that an existing interface is never taken over.
func openTUN(name string, mtu int) (tun.Device, error) {
	if _, err := net.InterfaceByName(name); err == nil {
		return nil, nameTaken(name, unix.EBUSY)
	}
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(name, err)
	}
	if err := attach(fd, name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := setMTU(name, mtu); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing interface %s with MTU %d: %w", name, mtu, err), unix.Close(fd))
	}
	// Only now: it registers the descriptor with the runtime's poller, and one that has no interface yet polls as broken. Unmonitored: the
	// monitor of wireguard-go wakes the process each second to tell "up" from "down", which countedTUN keeps from the device anyway.
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("preparing interface %s: %w", name, err) // the descriptor is its file's, which nobody has
	}
	return dev, nil
}

func setMTU(name string, mtu int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint32(uint32(mtu))
	return unix.IoctlIfreq(s, unix.SIOCSIFMTU, ifr)
}

func openError(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("creating interface %s: this machine has no usable %s: load the module (`modprobe tun`), or give the container the device "+
			"(`--device %s`): %w", name, tunPath, tunPath, err)
	case isPermission(err):
		return fmt.Errorf("creating interface %s: this user may not open %s: make it accessible (`chmod 0666 %s` is its usual mode; the kernel asks for "+
			"CAP_NET_ADMIN besides), or allow the device in the container: %w", name, tunPath, tunPath, err)
	}
	return fmt.Errorf("creating interface %s: opening %s: %w", name, tunPath, err)
}

func nameTaken(name string, err error) error {
	return fmt.Errorf("creating interface %s: an interface of this name exists already: choose another with --interface, or remove it with "+
		"`ip link delete %s` if it is nobody's: %w", name, name, err)
}

func attach(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface name %q: %w", name, err)
	}
	// IFF_VNET_HDR turns the kernel's segmentation offloads on, which wireguard-go's throughput rests on.
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	switch {
	case err == nil:
		return nil
	case isPermission(err):
		return fmt.Errorf("creating interface %s: %s: %w", name, needNetAdmin, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return nameTaken(name, err)
	}
	return fmt.Errorf("creating interface %s: %w", name, err)
}

// countedTUN counts packets, all of them for the memory trimmer and by their addresses in the meter, and keeps "link up" and "link down" from
// the device: on them wireguard-go opens and closes the UDP socket, which here carries ICE and the control plane too, so `ip link set down`
// would cut the node off.
type countedTUN struct {
	tun.Device
	packets atomic.Uint64
	alarm   atomic.Bool   // the next packet is to be told
	next    chan struct{} // holds one
	meter   *meter.Meter
	mtu     int           // as the device knows it; lookAtMTU's
	resized chan struct{} // holds one
	events  chan tun.Event
	done    chan struct{} // closed when the forwarder has ended
}

func countPackets(d tun.Device, mtu int) *countedTUN {
	t := &countedTUN{
		Device: d, next: make(chan struct{}, 1), meter: meter.New(), mtu: mtu, resized: make(chan struct{}, 1),
		events: make(chan tun.Event, 1), done: make(chan struct{}),
	}
	go t.forward() // Tunnel.Close waits for done
	return t
}

// forward ends when the device below is closed.
func (t *countedTUN) forward() {
	defer close(t.done)
	defer close(t.events)
	for {
		select {
		case _, open := <-t.Device.Events():
			if !open {
				return
			}
		case <-t.resized:
			t.events <- tun.EventMTUUpdate
		}
	}
}

// lookAtMTU tells the device if somebody has changed the interface's MTU. It is for one goroutine.
func (t *countedTUN) lookAtMTU() {
	mtu, err := t.MTU()
	if err != nil || mtu == t.mtu {
		return // the interface may be going away: whoever reads from it says so
	}
	t.mtu = mtu
	select {
	case t.resized <- struct{}{}:
	default:
	}
}

func (t *countedTUN) count(n int) {
	t.packets.Add(uint64(n))
	if n > 0 && t.alarm.Load() && t.alarm.Swap(false) {
		select {
		case t.next <- struct{}{}:
		default:
		}
	}
}

// Events implements tun.Device.
func (t *countedTUN) Events() <-chan tun.Event { return t.events }

// Read implements tun.Device.
func (t *countedTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := t.Device.Read(bufs, sizes, offset)
	n = max(n, 0)
	t.count(n)
	t.meter.Out(bufs[:n], sizes[:n], offset)
	return n, err
}

// Write implements tun.Device.
func (t *countedTUN) Write(bufs [][]byte, offset int) (int, error) {
	t.count(len(bufs))
	t.meter.In(bufs, offset) // before the device joins packets for the system
	return t.Device.Write(bufs, offset)
}

// injectOffset leaves room before a packet for what the interface puts there (a virtio header); wireguard-go leaves as much.
const injectOffset = device.MessageTransportHeaderSize

// Inject hands a packet to the operating system as if it had arrived through the tunnel.
func (t *Tunnel) Inject(packet []byte) error {
	if t.closed() {
		return fmt.Errorf("handing a packet to %s: %w", t.name, ErrClosed)
	}
	b := append(make([]byte, injectOffset, injectOffset+len(packet)), packet...)
	if _, err := t.tun.Device.Write([][]byte{b}, injectOffset); err != nil {
		return fmt.Errorf("handing a packet to %s: %w", t.name, err)
	}
	return nil
}

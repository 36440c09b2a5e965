//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxFrame  = 1 << 16
	queueSize = 8192 // frames in flight each way; more are dropped, as any full queue drops them
)

// delayLine carries frames between two interfaces of a namespace, both ways, in order, each a fixed time later than it came.
type delayLine struct {
	delay  time.Duration
	filter atomic.Int32 // a filter
	ends   [2]*os.File
	done   sync.WaitGroup
}

type frame struct {
	due  time.Time
	data []byte
}

// newDelayLine starts a delay line; close ends it.
func newDelayLine(ns, a, b string, delay time.Duration) (*delayLine, error) {
	l := &delayLine{delay: delay}
	err := inNamespace(ns, func() (err error) {
		if l.ends[0], err = openPort(a); err != nil {
			return err
		}
		l.ends[1], err = openPort(b)
		return err
	})
	if err != nil {
		l.close()
		return nil, fmt.Errorf("make a delay line between %s and %s: %w", a, b, err)
	}
	for i := range l.ends { // close waits for them
		queue := make(chan frame, queueSize)
		l.done.Go(func() { l.read(l.ends[i], queue) })
		l.done.Go(func() { l.write(l.ends[1-i], queue) })
	}
	return l, nil
}

// openPort returns a raw socket on an interface of the calling thread's namespace: one Read or Write is one frame.
func openPort(name string) (*os.File, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // protocol 0: nothing before bind
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to frames on %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (l *delayLine) read(from *os.File, queue chan<- frame) {
	defer close(queue)
	buf := make([]byte, maxFrame)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, unix.ENETDOWN) { // the cable is out; reported once
			continue
		}
		if err != nil {
			return // closed
		}
		due := time.Now().Add(l.delay)
		if swallows(filter(l.filter.Load()), buf[:n]) {
			continue
		}
		select {
		case queue <- frame{due, append([]byte(nil), buf[:n]...)}:
		default:
		}
	}
}

// write sends frames when they are due. A frame that cannot be sent, because the link is down, is lost, as on any wire.
func (l *delayLine) write(to *os.File, queue <-chan frame) {
	for f := range queue {
		time.Sleep(time.Until(f.due))
		_, _ = to.Write(f.data)
	}
}

// swallows reports whether the filter drops an Ethernet frame.
func swallows(f filter, data []byte) bool {
	if f != filterUDP || len(data) < 14 {
		return f == filterAll
	}
	switch uint16(data[12])<<8 | uint16(data[13]) {
	case unix.ETH_P_IP:
		return len(data) > 23 && data[23] == unix.IPPROTO_UDP
	case unix.ETH_P_IPV6:
		return len(data) > 20 && data[20] == unix.IPPROTO_UDP
	}
	return false
}

// close ends the line; frames under way are lost.
func (l *delayLine) close() {
	for _, end := range l.ends {
		if end != nil {
			end.Close()
		}
	}
	l.done.Wait()
}

// offloadsOff makes the kernel finish checksums and segmentation before it sends on an interface: a packet socket on the other end
// would see frames without them. It is `ethtool -K DEV tx off`, with the ioctl of linux/ethtool.h, so that ethtool need not be there.
func offloadsOff(ns, dev string) error {
	const ethtoolSetTxChecksum = 0x17 // ETHTOOL_STXCSUM; segmentation offloads depend on it and go too
	value := struct{ cmd, data uint32 }{cmd: ethtoolSetTxChecksum}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], dev)
	request.data = unsafe.Pointer(&value)
	return inNamespace(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("turn off checksum offload of %s: %w", dev, errno)
		}
		return nil
	})
}

package tunnel

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.zx2c4.com/wireguard/tun"
)

// stillTUN passes nothing.
type stillTUN struct {
	mtu    atomic.Int64
	events chan tun.Event
	tun.Device
}

func (s *stillTUN) MTU() (int, error)                       { return int(s.mtu.Load()), nil }
func (s *stillTUN) Events() <-chan tun.Event                { return s.events }
func (s *stillTUN) Read([][]byte, []int, int) (int, error)  { return 1, nil }
func (s *stillTUN) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }
func (s *stillTUN) Close() error                            { close(s.events); return nil }

func newStillTUN() *stillTUN {
	s := &stillTUN{events: make(chan tun.Event, 2)}
	s.mtu.Store(1420)
	return s
}

func TestTheDeviceHearsOfAnotherMTUAndOfNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStillTUN()
		c := countPackets(s, 1420)
		s.events <- tun.EventDown
		s.events <- tun.EventUp
		c.lookAtMTU()
		synctest.Wait()
		select {
		case e := <-c.Events():
			t.Errorf("event %v though the MTU is as it was", e)
		default:
		}
		for _, mtu := range []int64{1400, 1420} {
			s.mtu.Store(mtu)
			c.lookAtMTU()
			c.lookAtMTU()
			synctest.Wait()
			if e := <-c.Events(); e != tun.EventMTUUpdate {
				t.Errorf("MTU %d: event %v", mtu, e)
			}
			select {
			case e := <-c.Events():
				t.Errorf("MTU %d: a second event %v", mtu, e)
			default:
			}
		}
		_ = s.Close()
		if _, open := <-c.Events(); open {
			t.Error("an event of a closed interface")
		}
		<-c.done
	})
}

func TestNextPacket(t *testing.T) {
	c := countPackets(newStillTUN(), 1420)
	defer func() {
		_ = c.Close()
		<-c.done
	}()
	tunnel := &Tunnel{tun: c}
	packet := [][]byte{make([]byte, 40)}
	pass := func() { _, _ = c.Write(packet, 0) }
	told := func(next <-chan struct{}) bool {
		select {
		case <-next:
			return true
		default:
			return false
		}
	}
	pass()
	next := tunnel.NextPacket()
	if told(next) {
		t.Error("told of a packet that had passed before")
	}
	for range 3 {
		pass()
	}
	if !told(next) || told(next) {
		t.Error("of three packets, the first is to be told")
	}
	if pass(); told(next) {
		t.Error("told of a packet that nobody asked for")
	}
	_ = tunnel.NextPacket()
	pass()
	if next = tunnel.NextPacket(); told(next) { // nobody had taken the news
		t.Error("told of a packet that had passed before it was asked for again")
	}
	if _, err := c.Read(packet, []int{0}, 0); err != nil || !told(next) {
		t.Errorf("a packet on its way out was not told: %v", err)
	}
}

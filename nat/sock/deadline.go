package sock

import (
	"sync"
	"time"
)

// deadline is a read deadline that can be moved while somebody waits for it, as net.Pipe has it.
type deadline struct {
	mu      sync.Mutex // guards timer and expired
	timer   *time.Timer
	expired chan struct{} // closed when the deadline has passed
}

func newDeadline() *deadline { return &deadline{expired: make(chan struct{})} }

// set moves the deadline; the zero time means none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer's function has run or is about to: let it, so that it cannot close the next channel
	}
	d.timer = nil
	passed := isClosed(d.expired)
	if t.IsZero() {
		if passed {
			d.expired = make(chan struct{})
		}
		return
	}
	if left := time.Until(t); left > 0 {
		if passed {
			d.expired = make(chan struct{})
		}
		expired := d.expired
		d.timer = time.AfterFunc(left, func() { close(expired) })
		return
	}
	if !passed {
		close(d.expired)
	}
}

// wait returns a channel that is closed when the deadline that is set now passes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

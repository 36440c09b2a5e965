package netmon

import (
	"slices"
	"time"
)

// maxDebounces bounds how long a steady stream of messages may put the reading off.
const maxDebounces = 4

// core decides when to look and what is news. It has no clock and no socket.
type core struct {
	debounce time.Duration
	last     State
	first    time.Time      // of the pending hints; zero: none pending
	lost     map[int]uint32 // how often each link of last lost its carrier
	up       map[int]bool   // links that were up and not seen down since
}

func newCore(s State, debounce time.Duration) *core {
	c := &core{debounce: debounce, last: s}
	c.remember(s)
	return c
}

// note takes a hint and returns after how long to read the state.
func (c *core) note(h hint, now time.Time) time.Duration {
	for _, index := range h.lost {
		c.drop(index)
	}
	if c.first.IsZero() {
		c.first = now
	}
	return max(0, min(c.debounce, c.first.Add(maxDebounces*c.debounce).Sub(now)))
}

// failed notes that the state could not be read, and returns after how long to try again.
func (c *core) failed() time.Duration {
	c.first = time.Time{}
	return maxDebounces * c.debounce
}

// drop counts a loss, once until the link is read as up again.
func (c *core) drop(index int) {
	if c.up[index] {
		c.up[index] = false
		c.lost[index]++
	}
}

// update takes the state as read and returns it with Lost filled in, and whether it is news.
func (c *core) update(s State) (State, bool) {
	c.first = time.Time{}
	s.Links = slices.Clone(s.Links)
	for i, l := range s.Links {
		if !l.Up {
			c.drop(l.Index) // where its message was lost
		}
		s.Links[i].Lost = c.lost[l.Index]
	}
	c.remember(s)
	changed := !s.Equal(c.last)
	c.last = s
	return s, changed
}

// remember starts the maps afresh with the links that there are, so that they never grow beyond the machine's list of links.
func (c *core) remember(s State) {
	c.lost, c.up = make(map[int]uint32, len(s.Links)), make(map[int]bool, len(s.Links))
	for _, l := range s.Links {
		c.lost[l.Index], c.up[l.Index] = l.Lost, l.Up
	}
}

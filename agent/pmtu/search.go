package pmtu

import "slices"

// WireGuard pads a packet to a multiple of 16 bytes, and at most to the interface's MTU, so sizes between these cannot be told apart.
const padding = 16

// minimum is the smallest size that is tried. An IPv6 underlay carries 1200 bytes inside the tunnel (1280 less 80). In IPv4 a router may be
// content with less, but below 576 (RFC 791) nobody goes.
const minimum = 512

// sizesUpTo returns the sizes that are tried, ascending: steps of 16 where paths usually end, larger ones elsewhere. The last is top.
func sizesUpTo(top int) []int {
	var out []int
	for size := minimum; size < top; {
		out = append(out, size)
		switch {
		case size < 1152 || size >= 1504:
			size += 8 * padding
		default:
			size += padding
		}
	}
	return append(out, top)
}

// search finds the largest size that passes, in rounds: several sizes are tried at once, and the next round lies between the largest that was
// answered and the smallest that was not. A lost probe only costs time: a size is given up after maxProbes, and until then it is asked for in
// each round again.
type search struct {
	sizes  []int
	tries  []int // of each size
	passed int   // index of the largest that was answered; -1: none
	rounds int
}

// newSearch tries sizes up to top, and nothing up to known, which has passed already; 0: none has.
func newSearch(top, known int) *search {
	sizes := sizesUpTo(top)
	return &search{sizes: sizes, tries: make([]int, len(sizes)), passed: slices.Index(sizes, known)}
}

// failed returns the index of the smallest size that was tried without an answer; len(sizes) if there is none.
func (s *search) failed() int {
	for i := s.passed + 1; i < len(s.sizes); i++ {
		if s.tries[i] > 0 {
			return i
		}
	}
	return len(s.sizes)
}

// next returns the sizes of the next round; none when the search is over.
func (s *search) next() []int {
	s.rounds++
	top := len(s.sizes) - 1
	if s.passed == top {
		return nil
	}
	var round []int
	hi := s.failed()
	switch {
	case hi > top: // nothing has failed: try for everything
		round = []int{top}
	case s.rounds == 2 && s.passed < 0:
		// Where the largest does not pass, what IPv6 needs usually does. The largest is asked for again: it may have been lost.
		round = append(s.between(hi), hi)
		if base := slices.Index(s.sizes, 1280); base > 0 && base < hi && !slices.Contains(round, base) {
			round = append(round, base)
		}
	default:
		round = s.between(hi)
		if s.tries[hi] < maxProbes {
			round = append(round, hi)
		}
	}
	for i, index := range round {
		s.tries[index]++
		round[i] = s.sizes[index]
	}
	return round
}

// between returns up to fan indices strictly between the largest that passed and hi, evenly spread.
func (s *search) between(hi int) []int {
	var out []int
	gap := hi - s.passed
	for i := 1; i <= fan; i++ {
		at := s.passed + gap*i/(fan+1)
		if at > s.passed && at < hi && (len(out) == 0 || at != out[len(out)-1]) {
			out = append(out, at)
		}
	}
	if len(out) == 0 && gap > 1 {
		out = append(out, s.passed+1)
	}
	return out
}

// answered notes that a size passes, and with it every smaller one.
func (s *search) answered(size int) {
	if i := slices.Index(s.sizes, size); i > s.passed {
		s.passed = i
	}
}

// best returns the largest size that passed; 0: none.
func (s *search) best() int {
	if s.passed < 0 {
		return 0
	}
	return s.sizes[s.passed]
}

// asked returns how often a size was asked for.
func (s *search) asked(size int) int {
	i := slices.Index(s.sizes, size)
	if i < 0 {
		return 0
	}
	return s.tries[i]
}

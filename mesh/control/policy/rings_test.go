package policy

import (
	"testing"
	"time"
)

// TestReachableMembersHaveFewConnections: each keeps at most two, and at most two others keep one to it.
func TestReachableMembersHaveFewConnections(t *testing.T) {
	for _, size := range []int{2, 3, 5, 11, 30} {
		for seed := range 10 {
			s := newSim(size, 0, 50+seed)
			for i := range s.ps {
				s.step(i, Members{Reachable: true, Peers: s.peers})
			}
			s.run(3 * time.Minute)
			if s.parts() != 1 {
				t.Errorf("%d reachable members are in %d parts", size, s.parts())
			}
			for i := range s.ps {
				n := 0
				for j := range s.ps {
					if s.up[pair(i, j)] {
						n++
					}
				}
				if n > 4 || n < min(2, size-1) {
					t.Errorf("of %d reachable members one has %d connections", size, n)
				}
			}
		}
	}
}

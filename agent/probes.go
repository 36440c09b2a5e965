package agent

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/gridwire/gridwire/mesh"
)

// reachWait is how long a probe may take: two hops of signalling and one way back.
const reachWait = 1500 * time.Millisecond

var errNobody = errors.New("no other member is connected, so nobody can test whether strangers reach this node")

// probeBudget bounds the packets that this node sends to addresses on somebody's word.
type probeBudget struct {
	mu    sync.Mutex // guards peers
	peers map[mesh.NodeID]*rate.Limiter
	all   *rate.Limiter
}

func newProbeBudget() *probeBudget {
	return &probeBudget{peers: map[mesh.NodeID]*rate.Limiter{}, all: rate.NewLimiter(10, 20)}
}

// allow takes one from a member's budget: 6 at once, then one each 5 s. Members are bounded by the directory, so the table is, too.
func (b *probeBudget) allow(from mesh.NodeID, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.peers[from]
	if !ok {
		l = rate.NewLimiter(rate.Every(5*time.Second), 6)
		b.peers[from] = l
	}
	return l.AllowN(now, 1)
}

// allowAll takes one from the budget of all members together.
func (b *probeBudget) allowAll(now time.Time) bool { return b.all.AllowN(now, 1) }

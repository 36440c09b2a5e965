package stun

import (
	"net/netip"
	"time"

	"github.com/pion/stun"
	"golang.org/x/time/rate"
)

// server decides which Binding requests are answered. It has no socket and no clock.
type server struct {
	key    stun.MessageIntegrity
	budget *rate.Limiter // for those without the member key, all together: a table of addresses could be filled by forged ones
	out    stun.Message
}

func newServer(key []byte, perSecond float64, burst int) *server {
	if perSecond <= 0 {
		perSecond = DefaultStrangersPerSecond
	}
	if burst <= 0 {
		burst = DefaultStrangersBurst
	}
	return &server{key: key, budget: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// answer returns the answer to the Binding request m, valid until the next call, or nil for silence: if the budget for strangers is
// spent, if m has an attribute that must be understood and is not (RFC 8489, 6.3.1 wants an error then, which could be longer than m),
// or if the answer would be longer than m, so that nobody can use us to make more traffic out of less.
func (s *server) answer(m *stun.Message, from netip.AddrPort, now time.Time) []byte {
	member := false
	for _, a := range m.Attributes {
		switch {
		case a.Type == stun.AttrMessageIntegrity:
			member = len(s.key) > 0 && s.key.Check(m) == nil
		case a.Type == stun.AttrUsername || a.Type > 0x7FFF: // of no use here, or comprehension-optional
		default:
			return nil
		}
	}
	if !member && !s.budget.AllowN(now, 1) {
		return nil
	}
	x := stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}
	if err := s.out.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess, x); err != nil {
		return nil
	}
	if len(s.out.Raw) > len(m.Raw) {
		return nil
	}
	return s.out.Raw
}

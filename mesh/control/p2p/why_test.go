package p2p

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/quic-go/quic-go"
)

func TestDialReasonIsShort(t *testing.T) {
	dead := swarm.TransportError{Cause: &quic.IdleTimeoutError{}}
	late := swarm.TransportError{Cause: fmt.Errorf("dial: %w", context.DeadlineExceeded)}
	other := swarm.TransportError{Cause: errors.New("network is unreachable")}
	for _, c := range []struct {
		errs []swarm.TransportError
		want string
	}{
		{[]swarm.TransportError{dead, late, dead}, "no answer"},
		{[]swarm.TransportError{dead, other, late}, "no answer; network is unreachable"},
	} {
		err := dialReason(&swarm.DialError{Cause: swarm.ErrAllDialsFailed, DialErrors: c.errs})
		if err.Error() != c.want {
			t.Errorf("%q, want %q", err, c.want)
		}
		if !errors.Is(err, swarm.ErrAllDialsFailed) {
			t.Errorf("%q no longer wraps libp2p's error", err)
		}
	}
	if err := dialReason(fmt.Errorf("dial: %w", context.DeadlineExceeded)); err.Error() != "no answer" {
		t.Errorf("%q, want no answer", err)
	}
	if err := dialReason(context.Canceled); !errors.Is(err, context.Canceled) || err.Error() != context.Canceled.Error() {
		t.Errorf("an error of another kind became %v", err)
	}
}

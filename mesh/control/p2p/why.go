package p2p

import (
	"errors"
	"net"
	"os"
	"strings"

	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/quic-go/quic-go"
)

// errNoAnswer is what most failed dials come to.
var errNoAnswer = errors.New("no answer")

// dialReason puts libp2p's account of a failed dial, one line for each address, into a few words. The error stays in the tree.
func dialReason(err error) error {
	var failed *swarm.DialError
	if !errors.As(err, &failed) || len(failed.DialErrors) == 0 {
		if silent(err) { // the time was up before any of the addresses was given up
			return &dialError{errNoAnswer.Error(), err}
		}
		return err
	}
	var words []string
	seen := map[string]bool{}
	for _, e := range failed.DialErrors {
		cause := e.Cause
		if silent(cause) {
			cause = errNoAnswer
		}
		if text := cause.Error(); !seen[text] {
			seen[text] = true
			words = append(words, text)
		}
	}
	return &dialError{strings.Join(words, "; "), err}
}

// silent reports whether nothing came back in time, which QUIC, the context and the socket each say in their own words.
func silent(err error) bool {
	var timeout net.Error
	var idle *quic.IdleTimeoutError
	var handshake *quic.HandshakeTimeoutError
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &idle) || errors.As(err, &handshake) || errors.As(err, &timeout) && timeout.Timeout()
}

type dialError struct {
	text string
	err  error
}

func (e *dialError) Error() string { return e.text }
func (e *dialError) Unwrap() error { return e.err }

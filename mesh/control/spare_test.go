package control

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gridwire/gridwire/mesh/wire"
)

// A node that others do not accept any more (its certificate has run out, or was replaced) asks for another on the connection on which its
// proof is refused: it must not be closed under the question.
func TestRefusedNodeStillEnrols(t *testing.T) {
	inWorld(t, 10*time.Millisecond, func(t *testing.T, w *world) {
		a, b := w.add(false), w.add(false)
		a.start()
		_, err := a.dir.Submit(t.Context(), w.revoke(1, b))
		check(t, err)
		b.start(a)
		until(t, 5*time.Second, "b is refused", func() bool { return b.ctl.Refused()[a.id] != "" })

		s, err := b.host.OpenEnrol(t.Context(), a.id, []netip.AddrPort{a.addr})
		check(t, err)
		time.Sleep(3 * time.Second) // the issuer, or its disk, is slow
		check(t, wire.WriteFrame(s, &wire.EnrolFrame{SealedRequest: []byte("please")}))
		resp := new(wire.EnrolResponse)
		check(t, wire.ReadFrame(s, resp, replyLimit))
		if string(resp.GetSealedResult()) != "please" {
			t.Errorf("enrolment: %v", resp)
		}
		conn, err := b.host.Dial(t.Context(), a.id, nil) // the one there is
		check(t, err)
		check(t, s.Close())
		until(t, 2*time.Second, "the connection is closed when that is over", func() bool { return conn.Context().Err() != nil })
		if a.connected(b) || b.connected(a) {
			t.Error("a revoked node is connected")
		}
	})
}

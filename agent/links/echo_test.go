package links

import "testing"

func TestEchoForOthers(t *testing.T) {
	for _, size := range []int{0, requestLen, 464, 1372} {
		b := EchoRequest(7, size)
		e, ok := decodeProbe(b)
		if len(b) != max(size, requestLen) || !ok || e.reply || e.seq != 7 || e.told != (Told{}) {
			t.Errorf("a request of %d bytes has %d: %+v %v", size, len(b), e, ok)
		}
		if _, ok := EchoReply(b); ok {
			t.Error("a request taken for a reply")
		}
	}
	reply := encodeReply(9)
	if seq, ok := EchoReply(reply[:]); !ok || seq != 9 {
		t.Errorf("reply: %d %v", seq, ok)
	}
	if _, ok := EchoReply([]byte("gw")); ok {
		t.Error("believed two bytes")
	}
}

package p2p

import (
	"errors"
	"reflect"

	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/quic-go/quic-go"
)

// packetSize is what every QUIC path must carry (RFC 9000, 14): with IPv6's headers 1248 bytes, with IPv4's 1228. quic-go begins with 1280
// and pads the first packets to that, which does not fit a path of 1280 bytes; the shared socket never fragments, so no control connection
// would come up there. It looks for no larger size on a socket like ours.
const packetSize = 1200

// limitPackets sets it. quicreuse has no option for it (v0.48.0), hence the reflection; an error says that the pinned version's fields have
// changed.
func limitPackets(m *quicreuse.ConnManager) error {
	for _, name := range []string{"serverConfig", "clientConfig"} {
		field := reflect.ValueOf(m).Elem().FieldByName(name)
		if !field.IsValid() || field.Type() != reflect.TypeFor[*quic.Config]() || field.IsNil() {
			return errors.New("libp2p's QUIC connection manager has no field " + name + " as in v0.48.0")
		}
		(*quic.Config)(field.UnsafePointer()).InitialPacketSize = packetSize
	}
	return nil
}

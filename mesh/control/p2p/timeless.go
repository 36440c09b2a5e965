package p2p

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"time"
	"unsafe"

	ic "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// TLS certificates here prove a key and nothing else: membership, and until when, is in the hello, judged by trusted time. libp2p makes them
// valid from an hour before now, so a machine whose clock went back (a box without a battery) would refuse every peer before it has
// learned the time from one. These are valid whatever the clock says.
var (
	validFrom  = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
	validUntil = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// makeTimeless gives a QUIC transport such a certificate. NewTransport has no option for it (v0.48.0 calls libp2ptls.NewIdentity without
// any), hence the reflection; an error says that the pinned version's field has changed.
func makeTimeless(tr transport.Transport, key ic.PrivKey) error {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return fmt.Errorf("drawing a serial number: %w", err)
	}
	id, err := libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(&x509.Certificate{
		SerialNumber: serial, NotBefore: validFrom, NotAfter: validUntil, Subject: pkix.Name{SerialNumber: serial.String()},
	}))
	if err != nil {
		return fmt.Errorf("making the TLS certificate: %w", err)
	}
	v := reflect.ValueOf(tr)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return errors.New("libp2p's QUIC transport is not what it was in v0.48.0")
	}
	field := v.Elem().FieldByName("identity")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*libp2ptls.Identity]() {
		return errors.New("libp2p's QUIC transport has no field identity as in v0.48.0")
	}
	reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Set(reflect.ValueOf(id))
	return nil
}

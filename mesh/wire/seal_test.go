package wire

import (
	"bytes"
	"testing"
)

func TestSeal(t *testing.T) {
	key, pub := testSealKey(t, 'a')
	other, _ := testSealKey(t, 'b')
	for _, plaintext := range [][]byte{nil, []byte("hello"), make([]byte, 10_000)} {
		ct, err := SealTo(pub, "test", plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if len(ct) != len(plaintext)+SealOverhead {
			t.Fatalf("%d bytes became %d", len(plaintext), len(ct))
		}
		got, err := OpenWith(key, "test", ct)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("came back as %d bytes (%v)", len(got), err)
		}
		_, err = OpenWith(other, "test", ct)
		wantError(t, err, nil, "another key")
		_, err = OpenWith(key, "another", ct)
		wantError(t, err, nil, "another purpose")
		ct[len(ct)-1] ^= 1
		_, err = OpenWith(key, "test", ct)
		wantError(t, err, nil, "altered")
	}
	_, err := OpenWith(key, "test", make([]byte, SealOverhead-1))
	wantError(t, err, nil, "at least 48")
	_, err = OpenWith(nil, "test", make([]byte, 100))
	wantError(t, err, nil, "no private key")
	_, err = SealTo([32]byte{}, "test", nil) // the point of order 1: everybody would know the secret
	wantError(t, err, nil, "sealing")
}

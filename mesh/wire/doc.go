// Package wire turns every message of gridwire's own into bytes and back, and checks what comes back.
//
// The messages are Protocol Buffers (wire.proto). This package adds what Protocol Buffers lack: frames on a stream, signatures,
// sealing, the text of a token, and the limit of each field. It owns no state and opens no socket or file. It never decides whether
// a certificate is good or a sender is welcome: that is mesh/pki's and mesh/directory's work.
//
// Whoever forwards a signed message forwards the bytes that were signed. That is why SignedRecord and SignalFrame hold bytes, not
// messages: a re-encoding might order or drop fields that a newer version added, and the signature would no longer fit.
//
// # Frame
//
// Every stream is a sequence of these. The length is an unsigned varint (LEB128) that does not count itself.
//
//	+----------------+---------------------------+
//	| length, 1..5 B | message, length bytes     |
//	+----------------+---------------------------+
//
// # Signed record
//
//	SignedRecord
//	+-- 1 record ------------------------------+-- 2 signature ---------------+
//	| Record, at most 32 KiB                   | Ed25519, 64 bytes, over      |
//	|   1 version  2 chain[0] = leaf ... 13 lan| "gridwire record v1\n"+record|
//	+------------------------------------------+------------------------------+
//
// # Envelope
//
// The signature is the last field, so that what it covers is a run of bytes that nobody has to encode again. Unknown fields of
// a newer version stand before it.
//
//	+-- signed, together with "gridwire envelope v1\n" in front --------------+---------------------+
//	| 1 version | 2 id 16 | 3 from 32 | 4 to 32 | 5 time | 6 sealed (HPKE)     | 3a 40 | signature 64|
//	+-------------------------------------------------------------------------+---------------------+
//	|<------------------------------------ at most 4096 bytes ------------------------------------->|
//
//	sealed: HPKE base mode (RFC 9180), info "gridwire signal v1\n" + from + to + id
//	+-- encapsulated X25519 key 32 --+-- ChaCha20-Poly1305 (Signal) + tag 16 --+
//
// # Token
//
// Text, so that it survives chat windows, mail and a shell. base64url (RFC 4648, section 5), no padding.
//
//	gw1 LLL C xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
//	 |   |  |  +-- base64url( Token | first 4 bytes of SHA-256("gridwire token v1\n" + Token) )
//	 |   |  +----- 6 check bits of LLL, so that damage to LLL is not mistaken for missing text
//	 |   +-------- length of Token in bytes, 3 base64url digits
//	 +------------ this format and its version
//
// To be short, the Token inside leaves out its version (the prefix says it) and the node_id of a member that is the issuer.
package wire

//go:generate sh -c "cd ../.. && protoc --plugin=protoc-gen-go=$DOLLAR(go tool -n protoc-gen-go) --go_out=. --go_opt=paths=source_relative mesh/wire/wire.proto"

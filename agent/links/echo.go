package links

// Others may ask the echo too: agent/pmtu does, with requests as large as the packet whose way it tests.

// EchoRequest returns a request of size bytes (at least 16) that tells nothing, padded with zeros.
func EchoRequest(seq uint32, size int) []byte {
	head := encodeRequest(seq, Told{})
	return append(head[:], make([]byte, max(size-requestLen, 0))...)
}

// EchoReply returns the sequence number of the request that b answers.
func EchoReply(b []byte) (seq uint32, ok bool) {
	e, ok := decodeProbe(b)
	return e.seq, ok && e.reply
}

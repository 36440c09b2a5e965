package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// MaxFrame is the largest frame that WriteFrame writes, in bytes of message.
const MaxFrame = 1 << 20

// firstRead is how much ReadFrame allocates on the word of a length alone; more only as bytes arrive.
const firstRead = 4096

// ErrFrameTooLarge says that a frame is longer than the stream's protocol allows. After it the stream cannot be read on.
var ErrFrameTooLarge = errors.New("frame too large")

// WriteFrame writes m to w in one Write. It refuses messages over MaxFrame with ErrFrameTooLarge, before writing anything.
func WriteFrame(w io.Writer, m proto.Message) error {
	name := m.ProtoReflect().Descriptor().Name()
	size := proto.Size(m)
	if size > MaxFrame {
		return fmt.Errorf("writing a %s of %d bytes, at most %d go into a frame: %w", name, size, MaxFrame, ErrFrameTooLarge)
	}
	b := binary.AppendUvarint(make([]byte, 0, size+binary.MaxVarintLen32), uint64(size))
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		return fmt.Errorf("encoding a %s: %w", name, err)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("writing a %s of %d bytes: %w", name, size, err)
	}
	return nil
}

// ReadFrame reads one frame of at most limit bytes into m, and not a byte beyond it. It returns io.EOF, unwrapped, when r ends
// where a frame would begin; io.ErrUnexpectedEOF (wrapped) when r ends within one; ErrFrameTooLarge (wrapped) when the frame is
// longer than limit. Its buffer never exceeds limit, and grows with what arrived, not with what was announced.
//
// A decoded message takes more memory than its frame (up to about 40 times, for a frame of nothing but empty repeated messages):
// choose limit by who may send.
func ReadFrame(r io.Reader, m proto.Message, limit int) error {
	name := m.ProtoReflect().Descriptor().Name()
	size, err := readLength(r)
	if err == io.EOF {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("reading the length of a %s: %w", name, err)
	}
	if size > uint64(max(limit, 0)) {
		return fmt.Errorf("reading a %s: the sender announced %d bytes, at most %d are allowed: %w", name, size, limit, ErrFrameTooLarge)
	}
	b, err := readBody(r, int(size))
	if err != nil {
		return fmt.Errorf("reading a %s: %d of %d bytes arrived: %w", name, len(b), size, err)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("decoding a %s of %d bytes: %w", name, size, err)
	}
	return nil
}

// readLength reads a varint byte by byte: r has no way to take back what was read too far.
func readLength(r io.Reader) (uint64, error) {
	var b [1]byte
	var v uint64
	for i := range binary.MaxVarintLen32 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			if err == io.EOF && i > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		v |= uint64(b[0]&0x7f) << (7 * i)
		if b[0] < 0x80 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("longer than %d bytes, this is no frame: %w", binary.MaxVarintLen32, ErrFrameTooLarge)
}

// readBody reads size bytes; on an error it returns those that arrived.
func readBody(r io.Reader, size int) ([]byte, error) {
	b := make([]byte, 0, min(size, firstRead))
	for len(b) < size {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(size, 2*cap(b)))
			copy(grown, b)
			b = grown
		}
		n, err := io.ReadFull(r, b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return b, err
		}
	}
	return b, nil
}

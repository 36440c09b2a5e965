package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
)

func TestFramesFollowEachOther(t *testing.T) {
	var stream bytes.Buffer
	sent := []*SignalAck{{}, {Delivered: true}, {Reason: string(bytes.Repeat([]byte("x"), 100_000))}, {Reason: "last"}}
	for _, m := range sent {
		if err := WriteFrame(&stream, m); err != nil {
			t.Fatal(err)
		}
	}
	r := iotest.OneByteReader(&stream)
	for i, want := range sent {
		got := new(SignalAck)
		if err := ReadFrame(r, got, MaxFrame); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("frame %d is another message", i)
		}
	}
	if err := ReadFrame(r, new(SignalAck), MaxFrame); err != io.EOF {
		t.Fatalf("after the last frame: %v, want io.EOF itself", err)
	}
}

func TestFrameKeepsUnknownFields(t *testing.T) {
	body := future(nil)
	frame := append(binary.AppendUvarint(nil, uint64(len(body))), body...)
	m := new(Heartbeat)
	if err := ReadFrame(bytes.NewReader(frame), m, 100); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := WriteFrame(&out, m); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), frame) {
		t.Fatalf("passed on as %x, came as %x", out.Bytes(), frame)
	}
}

func TestFrameCutAtEveryByte(t *testing.T) {
	var stream bytes.Buffer
	if err := WriteFrame(&stream, &SignalAck{Reason: string(bytes.Repeat([]byte("x"), 200))}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < stream.Len(); n++ {
		err := ReadFrame(bytes.NewReader(stream.Bytes()[:n]), new(SignalAck), MaxFrame)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("after %d bytes: %v, want io.ErrUnexpectedEOF", n, err)
		}
	}
}

func TestFrameTooLarge(t *testing.T) {
	big := &SignalAck{Reason: string(bytes.Repeat([]byte("x"), MaxFrame))}
	var stream bytes.Buffer
	wantError(t, WriteFrame(&stream, big), ErrFrameTooLarge, "1048576")
	if stream.Len() > 0 {
		t.Fatal("a part of the frame was written")
	}
	frame := binary.AppendUvarint(nil, 101)
	wantError(t, ReadFrame(bytes.NewReader(frame), new(SignalAck), 100), ErrFrameTooLarge, "announced 101 bytes, at most 100")
	wantError(t, ReadFrame(bytes.NewReader(frame), new(SignalAck), -1), ErrFrameTooLarge, "announced")
	endless := bytes.Repeat([]byte{0x80}, 20)
	wantError(t, ReadFrame(bytes.NewReader(endless), new(SignalAck), 100), ErrFrameTooLarge, "no frame")
}

func TestFrameAllocatesByArrivalNotByAnnouncement(t *testing.T) {
	b, err := readBody(bytes.NewReader(make([]byte, 5000)), MaxFrame)
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(b) != 5000 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if cap(b) > 4*5000 {
		t.Fatalf("a buffer of %d bytes for 5000 that arrived", cap(b))
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, m := range []*SignalAck{{}, {Delivered: true, Reason: "ok"}, {Reason: string(bytes.Repeat([]byte("y"), 300))}} {
		var b bytes.Buffer
		if err := WriteFrame(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), 10_000)
		f.Add(append(b.Bytes(), "more"...), 10_000)
		f.Add(b.Bytes()[:b.Len()/2], 10)
	}
	var accepted counter
	f.Fuzz(func(t *testing.T, stream []byte, limit int) {
		limit = min(max(limit, 0), MaxFrame)
		r := bytes.NewReader(stream)
		m := new(SignalAck)
		err := ReadFrame(r, m, limit)
		if err != nil {
			if err == io.EOF && len(stream) > 0 {
				t.Fatal("io.EOF, but there were bytes")
			}
			return
		}
		accepted++
		read := len(stream) - r.Len()
		size, n := binary.Uvarint(stream)
		if size > uint64(limit) || read != n+int(size) {
			t.Fatalf("read %d bytes of a frame of %d + %d, limit %d", read, n, size, limit)
		}
		var out bytes.Buffer
		if err := WriteFrame(&out, m); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again := new(SignalAck)
		if err := ReadFrame(&out, again, MaxFrame); err != nil || !proto.Equal(m, again) {
			t.Fatalf("written and read again: %v", err)
		}
	})
	accepted.done(f)
}

package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

const magic = "# gridwire state 1 "

// header returns the line that stands in front of data.
func header(data []byte) []byte {
	return fmt.Appendf(nil, "%ssha256=%x size=%d\n", magic, sha256.Sum256(data), len(data))
}

// encode returns the content of the file that holds data.
func encode(data []byte) []byte { return append(header(data), data...) }

// decode returns the data in a file's content, or why there is none. The data shares file's memory.
func decode(file []byte) ([]byte, error) {
	line, data, found := bytes.Cut(file, []byte("\n"))
	switch {
	case len(file) == 0:
		return nil, errors.New("it is empty")
	case len(bytes.Trim(file, "\x00")) == 0:
		return nil, fmt.Errorf("it is %d zero bytes", len(file))
	case !bytes.HasPrefix(file, []byte(magic)):
		return nil, errors.New("its header is not gridwire's")
	case !found:
		return nil, errors.New("it ends within its header")
	case bytes.Equal(file[:len(line)+1], header(data)):
		return data, nil
	}
	var sum string
	var size int
	if n, err := fmt.Sscanf(string(line[len(magic):]), "sha256=%64s size=%d", &sum, &size); n == 2 && err == nil && size != len(data) {
		return nil, fmt.Errorf("it has %d bytes of data where its header says %d", len(data), size)
	}
	return nil, errors.New("its content does not fit its checksum")
}

// hasHeader reports whether the file at path begins like one of ours. A file that cannot be read is not.
func hasHeader(path string) bool {
	f, err := openRegular(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, len(magic))
	_, err = io.ReadFull(f, b)
	return err == nil && string(b) == magic
}

// damage is what is wrong with one generation's content, as opposed to our not being allowed to read it.
type damage struct{ why error }

func (d *damage) Error() string { return d.why.Error() }
func (d *damage) Unwrap() error { return d.why }

// load returns the data of the file at path. Its errors are fs.ErrNotExist, *damage, or what keeps us from reading it.
func load(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, wideMode(path, info.Mode())
	}
	if info.Size() > maxSize {
		return nil, &damage{fmt.Errorf("it has %d bytes, no state file has more than %d", info.Size(), maxSize)}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil { // a bad sector is damage, too
		return nil, &damage{err}
	}
	data, err := decode(b)
	if err != nil {
		return nil, &damage{err}
	}
	return data, nil
}

// erase overwrites a file with zeros and removes it. It takes the file out of sight first, so that nobody reads it half erased; Open
// finishes what is broken off. Overwriting is best effort: a copy-on-write file system or a flash disk keeps the old blocks. Large
// files are caches, not keys; they are only removed.
func erase(path string) error {
	gone := path + ".gone" + tempSuffix
	if err := os.Rename(path, gone); err != nil {
		return err
	}
	if f, err := os.OpenFile(gone, os.O_WRONLY|noFollow, 0); err == nil {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() <= 1<<20 {
			if _, err := f.Write(make([]byte, info.Size())); err == nil {
				_ = f.Sync() // best effort, as said above: the removal below is what counts
			}
		}
		f.Close()
	}
	return os.Remove(gone)
}

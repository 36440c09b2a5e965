// Package bugreport packs what somebody who helps has to see into one archive, and takes every key and token out of it.
//
// It reads what it is given and, for their secrets alone, the files of the state folder. Two nets catch secrets: the ones that this
// machine holds are known byte by byte and are removed in every spelling, and whatever looks like a token or a private key is removed whoever it
// belongs to. It sends nothing anywhere.
package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Entry is one file of the report.
type Entry struct {
	Name string
	What string // for the list of contents
	Get  func(context.Context) ([]byte, error)
}

// maxEntry bounds one file; the end is kept, which is the newest of a log.
const maxEntry = 2 << 20

// Contents is the name of the list of contents.
const Contents = "CONTENTS.txt"

// Write packs the entries below a folder and returns the list of contents, which is the first file. An entry that cannot be read says why in
// its place: half a report is better than none.
func Write(ctx context.Context, w io.Writer, folder string, entries []Entry, r *Redactor, now time.Time) (list string, err error) {
	type file struct {
		name string
		data []byte
	}
	var files []file
	var text strings.Builder
	fmt.Fprintf(&text, "gridwire bug report of %s. Keys, secrets and tokens are removed.\n\n", now.UTC().Format(time.RFC3339))
	said := ""
	for _, e := range entries {
		data, err := e.Get(ctx)
		note := ""
		if err != nil {
			note = " (incomplete: " + strings.Join(strings.Fields(string(r.Clean([]byte(err.Error())))), " ") + ")"
			data = append(data, "\ncould not be read: "+err.Error()+"\n"...)
		}
		if note != "" && note == said {
			note = " (incomplete: as above)"
		} else if note != "" {
			said = note
		}
		if len(data) > maxEntry {
			data = append([]byte("[the beginning is left out]\n"), data[len(data)-maxEntry:]...)
		}
		data = r.Clean(data)
		files = append(files, file{e.Name, data})
		fmt.Fprintf(&text, "%-24s %s%s\n", e.Name, e.What, note)
	}
	list = text.String()
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, f := range append([]file{{Contents, []byte(list)}}, files...) {
		h := &tar.Header{Name: folder + "/" + f.name, Mode: 0o600, Size: int64(len(f.data)), ModTime: now.Truncate(time.Second), Typeflag: tar.TypeReg}
		if err := t.WriteHeader(h); err != nil {
			return "", fmt.Errorf("write %s into the report: %w", f.name, err)
		}
		if _, err := io.Copy(t, bytes.NewReader(f.data)); err != nil {
			return "", fmt.Errorf("write %s into the report: %w", f.name, err)
		}
	}
	if err := t.Close(); err != nil {
		return "", fmt.Errorf("finish the report: %w", err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("finish the report: %w", err)
	}
	return list, nil
}

//go:build !unix

package store

import (
	"errors"
	"fmt"
	"os"
)

const noFollow = 0

func openRegular(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// acquire fails: without a lock that ends with its process, two agents could write one folder.
func acquire(string) (*os.File, error) {
	return nil, errors.New("this operating system has no file lock that gridwire can use")
}

func adopt(*os.File, string) error { return nil }

//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
)

// mirrorEnv makes this test binary, started again in a namespace, a server at that address.
const mirrorEnv = "GRIDWIRE_E2E_MIRROR"

// TestMirror is no test but that server: it tells each client the two ends of its connection, and ends when its input does.
func TestMirror(t *testing.T) {
	at := os.Getenv(mirrorEnv)
	if at == "" {
		t.Skip("only as a helper of other tests")
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			fmt.Fprintf(c, "%v %v\n", c.RemoteAddr(), c.LocalAddr())
			_, _ = c.Read(make([]byte, 1024)) // the client's request: closing before it is read would reset the connection
			_ = c.Close()
		}
	}()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// uapiDir is where wg(8) and wgctrl look for userspace devices; neither can be told another place.
const uapiDir = "/var/run/wireguard"

func sockPath(name string) string { return uapiDir + "/" + name + ".sock" }

// uapiServer serves the WireGuard cross-platform configuration protocol on the interface's socket.
//
// wireguard-go's own ipc.UAPIOpen and UAPIListen are not used: they set the umask of the whole process, close an inotify descriptor that
// another goroutine polls, and leave goroutines behind.
type uapiServer struct {
	name   string
	handle func(net.Conn) // closes the connection when it returns

	mu       sync.Mutex // guards all below
	listener *net.UnixListener
	file     os.FileInfo // our socket in the file system, so that Close never removes somebody else's
	conns    map[net.Conn]struct{}
	closed   bool
	wait     sync.WaitGroup
}

func serveUAPI(name string, handle func(net.Conn)) (*uapiServer, error) {
	s := &uapiServer{name: name, handle: handle, conns: map[net.Conn]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.listenLocked()
}

// listenLocked makes the socket, replacing one that a killed process left. The caller holds mu.
func (s *uapiServer) listenLocked() error {
	path := sockPath(s.name)
	if err := os.MkdirAll(uapiDir, 0o755); err != nil {
		return uapiError(s.name, err)
	}
	if err := removeStale(path); err != nil {
		return err
	}
	// The mode is set before the socket has a name (Linux takes it over in bind), so that it is never open to others; the socket hands
	// out the private key.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(ctlErr, err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return uapiError(s.name, err)
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false)
	file, err := os.Lstat(path)
	if err != nil {
		return errors.Join(uapiError(s.name, err), listener.Close())
	}
	s.listener, s.file = listener, file
	s.wait.Add(1)
	go s.accept(listener) // Close waits
	return nil
}

func uapiError(name string, err error) error {
	if isPermission(err) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("creating the socket %s, through which the tunnel is configured and `wg show` asks: this user (uid %d) may not write there: "+
			"install gridwire's tmpfiles.d file, or `sudo install -d -m 0750 -o %d /run/wireguard`: %w", sockPath(name), os.Getuid(), os.Getuid(), err)
	}
	return fmt.Errorf("creating the socket %s, through which the tunnel is configured: %w", sockPath(name), err)
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", path, err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is in the way and is not a socket: remove it", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("%s is in use by another process: network namespaces share this folder, so agents in different namespaces need "+
			"different interface names (--interface)", path), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists and it cannot be told whether a process still uses it: stop that process or remove the file: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the socket that an earlier process left: %w", err)
	}
	return nil
}

func (s *uapiServer) accept(l *net.UnixListener) {
	defer s.wait.Done()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely: the client is still in the queue
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !s.add(c) {
			_ = c.Close() // the server is closing and the client is told so
			return
		}
		go func() { // Close waits
			defer s.remove(c)
			s.handle(c)
		}()
	}
}

func (s *uapiServer) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.wait.Add(1)
	return true
}

func (s *uapiServer) remove(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wait.Done()
}

// oursLocked reports whether the file at the socket's path is still the one we made.
func (s *uapiServer) oursLocked() bool {
	now, err := os.Lstat(sockPath(s.name))
	return err == nil && s.file != nil && os.SameFile(now, s.file)
}

// restore makes the socket again if somebody removed it, and reports whether it did.
func (s *uapiServer) restore() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.oursLocked() {
		return false, nil
	}
	old := s.listener
	if err := s.listenLocked(); err != nil {
		return false, err
	}
	return true, old.Close()
}

// Close ends all connections, waits for their handlers and removes the socket.
func (s *uapiServer) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	if s.oursLocked() {
		errs = append(errs, os.Remove(sockPath(s.name)))
	}
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	for c := range s.conns {
		_ = c.Close() // its handler closes it a second time
	}
	s.mu.Unlock()
	s.wait.Wait()
	return errors.Join(errs...)
}

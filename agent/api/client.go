package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
)

// ErrNoAgent says that nobody listens on the control socket.
var ErrNoAgent = errors.New("no agent is running")

// Client asks a running agent.
type Client struct {
	path string
	http *http.Client
}

// NewClient connects to nothing yet.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}}
}

// Get reads path into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// Post sends in as JSON and reads the answer into out, which may be nil.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPost, path, in, out)
}

// do returns ErrNoAgent (wrapped) when nobody listens, and an *Error when the agent refused.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.connectError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		e := &Error{}
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(e); err != nil || e.Message == "" {
			return fmt.Errorf("the agent answered %s; is it of another version?", resp.Status)
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

func (c *Client) connectError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return &Error{Code: CodeTimeout, Message: "the agent did not answer in time"}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start it with `gridwire agent` or `systemctl start gridwire`", ErrNoAgent, c.path)
	case errors.Is(err, fs.ErrPermission):
		return &Error{Code: CodeRefused, Message: fmt.Sprintf("no permission to use %s: run this as root or as a member of the group gridwire", c.path)}
	}
	return fmt.Errorf("ask the agent on %s: %w", c.path, err)
}

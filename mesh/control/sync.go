package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/control/gossip"
	"github.com/gridwire/gridwire/mesh/control/p2p"
	"github.com/gridwire/gridwire/mesh/directory"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	syncTimeout = 30 * time.Second
	syncChunk   = 256 << 10 // bytes of items in one frame, about
	syncFrames  = 4096      // from one peer in one exchange

	spreadRecords = 64 // news of one exchange that are gossiped
)

// exchange is how items come in and go out: by gossip, and by comparing what two members have.
type exchange struct{ *Control }

// submit takes an item into the directory and reports whether it was news. An error says that whoever sent it should not have. What
// is wrong on this side (a full disk, no time) is logged, and is nobody else's fault.
func (c exchange) submit(ctx context.Context, item *wire.Item) (fresh bool, err error) {
	v, err := c.cfg.Directory.Submit(ctx, item)
	if v == directory.Invalid {
		return false, err
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("could not take in an item", "verdict", v.String(), "err", err)
	}
	return v == directory.Accepted, nil
}

// submitAndSpread takes an item in and, where it is news, passes it on at once: when the same comes by gossip later it is old here, and
// GossipSub does not forward what its validator ignores.
func (c exchange) submitAndSpread(ctx context.Context, item *wire.Item) error {
	fresh, err := c.submit(ctx, item)
	if err != nil || !fresh {
		return err
	}
	if err := c.spread(ctx, item); err != nil {
		c.log.Debug("could not pass on an item", "err", err)
	}
	return nil
}

// validate is GossipSub's validator.
func (c exchange) validate(ctx context.Context, data []byte) gossip.Verdict {
	item := new(wire.Item)
	if err := proto.Unmarshal(data, item); err != nil {
		return gossip.Reject
	}
	switch fresh, err := c.submit(ctx, item); {
	case err != nil:
		return gossip.Reject
	case !fresh:
		return gossip.Ignore
	}
	c.events.put(evNews{})
	return gossip.Forward
}

// Publish takes an item into the directory and spreads it, also when the directory knows it already. It returns when GossipSub has
// taken it over; an error that wraps directory.ErrNotSaved says that the item is in force and on its way, but not on disk.
func (c *Control) Publish(ctx context.Context, item *wire.Item) error {
	v, err := c.cfg.Directory.Submit(ctx, item)
	if err != nil && (v == directory.Invalid || !errors.Is(err, directory.ErrNotSaved)) {
		return fmt.Errorf("publishing an item: %w", err)
	}
	return errors.Join(err, exchange{c}.spread(ctx, item))
}

func (c exchange) spread(ctx context.Context, item *wire.Item) error {
	g := c.gossip.Load()
	if g == nil {
		return nil // not yet running: each connection begins with a comparison
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(item)
	if err != nil {
		return fmt.Errorf("publishing an item: %w", err)
	}
	if err := g.Publish(ctx, b); err != nil {
		return err
	}
	c.events.put(evNews{})
	return nil
}

// sync compares what the other side of a link has with what this side has, and exchanges the difference. It is the dialler of the
// stream that sends its digest first.
func (c exchange) sync(l *link) {
	if l.syncing.Swap(true) {
		return
	}
	defer l.syncing.Store(false)
	ctx, cancel := context.WithTimeout(l.conn.Context(), syncTimeout)
	defer cancel()
	fresh, err := c.syncOn(ctx, l)
	if err != nil && l.conn.Context().Err() == nil {
		c.log.Warn("could not compare records with a member", "node", l.id.Short(), "err", err)
	}
	c.learned(l.id, fresh)
}

func (c exchange) syncOn(ctx context.Context, l *link) (fresh int, err error) {
	digest, err := c.cfg.Directory.Digest(ctx)
	if err != nil {
		return 0, err
	}
	s, err := l.conn.Open(ctx, syncProtocol)
	if err != nil {
		return 0, err
	}
	release := bound(ctx, s)
	defer func() { release(err) }()
	if err := wire.WriteFrame(s, &wire.SyncFrame{Digest: digest}); err != nil {
		return 0, err
	}
	fresh, want, err := c.receive(ctx, s)
	if err != nil {
		return fresh, err
	}
	items, err := c.cfg.Directory.Items(ctx, want)
	if err != nil {
		return fresh, err
	}
	if err := send(s, items, nil); err != nil {
		return fresh, err
	}
	_ = s.CloseWrite() // the other side may have closed it first
	// It closes when it has taken everything in: whoever is about to leave the network waits for that (SyncAll).
	_, _ = io.Copy(io.Discard, io.LimitReader(s, 1))
	_ = s.Close()
	return fresh, nil
}

// serveSync is the listener's side of sync.
func (c exchange) serveSync(conn *p2p.Conn, s network.Stream) {
	ctx, cancel := context.WithTimeout(conn.Context(), syncTimeout)
	defer cancel()
	release := bound(ctx, s)
	fresh, err := c.answerSync(ctx, s)
	release(err)
	if err != nil && conn.Context().Err() == nil {
		c.log.Warn("could not compare records with a member", "node", conn.ID().Short(), "err", err)
	}
	c.learned(conn.ID(), fresh)
}

func (c exchange) answerSync(ctx context.Context, s network.Stream) (int, error) {
	first := new(wire.SyncFrame)
	if err := wire.ReadFrame(s, first, wire.MaxFrame); err != nil {
		return 0, err
	}
	items, want, err := c.cfg.Directory.Diff(ctx, first.GetDigest())
	if err != nil {
		return 0, err
	}
	if want == nil {
		want = new(wire.Digest)
	}
	if err := send(s, items, want); err != nil {
		return 0, err
	}
	fresh, _, err := c.receive(ctx, s)
	if err != nil {
		return fresh, err
	}
	_ = s.Close() // the other side may have closed it first
	return fresh, nil
}

// send sends items in frames of bearable size; the last one says so, and carries want.
func send(s network.Stream, items []*wire.Item, want *wire.Digest) error {
	f, size := new(wire.SyncFrame), 0
	for _, item := range items {
		n := proto.Size(item)
		if size > 0 && size+n > syncChunk {
			if err := wire.WriteFrame(s, f); err != nil {
				return err
			}
			f, size = new(wire.SyncFrame), 0
		}
		f.Items, size = append(f.Items, item), size+n
	}
	if want != nil && size > 0 && size+proto.Size(want) > syncChunk {
		if err := wire.WriteFrame(s, f); err != nil {
			return err
		}
		f = new(wire.SyncFrame)
	}
	f.Want, f.Last = want, true
	return wire.WriteFrame(s, f)
}

// receive takes in items up to the last frame, and returns how many were news and what that frame asks for. An item that the directory
// refuses does not end the exchange: a newer version's may be among ours.
func (c exchange) receive(ctx context.Context, s network.Stream) (fresh int, want *wire.Digest, err error) {
	for range syncFrames {
		f := new(wire.SyncFrame)
		if err := wire.ReadFrame(s, f, wire.MaxFrame); err != nil {
			return fresh, nil, err
		}
		for _, item := range f.GetItems() {
			news, err := c.submit(ctx, item)
			if ctx.Err() != nil {
				return fresh, nil, ctx.Err()
			}
			if err != nil {
				c.log.Debug("the directory refused an item of a member", "err", err)
			}
			if !news {
				continue
			}
			fresh++
			// Revocations and issuers are few and must arrive everywhere at once. So should a few new members; where two halves of a
			// network meet, the syncs that follow on the other links carry the rest.
			if item.GetRecord() == nil || fresh <= spreadRecords {
				if err := c.spread(ctx, item); err != nil {
					c.log.Debug("could not pass on an item", "err", err)
				}
			}
		}
		if f.GetLast() {
			return fresh, f.GetWant(), nil
		}
	}
	return fresh, nil, fmt.Errorf("more than %d frames", syncFrames)
}

// learned tells the loop that an exchange brought news, so that the members on the other links hear of it.
func (c exchange) learned(from mesh.NodeID, fresh int) {
	if fresh > 0 {
		c.events.put(evLearned{from: from})
	}
}

package directory

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running starts a Directory inside a synctest bubble, whose clock begins at epoch.
func running(t *testing.T, w *world, p Persister) (d *Directory, stop func() error) {
	t.Helper()
	time.Sleep(time.Until(epoch))
	d, err := New(Config{Root: w.root, Self: idOf(key(memberSeed)), Persist: p, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	c, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(c) }() // stop waits for it
	return d, func() error { cancel(); return <-done }
}

func mustSubmit(t *testing.T, d *Directory, it *wire.Item, want Verdict) {
	t.Helper()
	if v, err := d.Submit(context.Background(), it); v != want || err != nil {
		t.Fatalf("verdict %v (error %v), want %v", v, err, want)
	}
}

// TestRunExpiry: the View loses a member at the moment its certificate ends, with nobody doing anything, and watchers hear of it.
func TestRunExpiry(t *testing.T) {
	w := newWorld(t, 1)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1, lifetime: 72 * time.Hour})
	other := w.record(spec{key: key(carol), name: "carol", sequence: 1})
	synctest.Test(t, func(t *testing.T) {
		d, stop := running(t, w, newMemory())
		views, cancel := d.Watch()
		if v := <-views; v.Len() != 0 {
			t.Fatalf("the mailbox begins with %d members", v.Len())
		}
		mustSubmit(t, d, rec, Accepted)
		mustSubmit(t, d, other, Accepted)
		if v := <-views; v.Len() != 2 {
			t.Fatalf("the mailbox has %d members, want the newest View with 2", v.Len())
		}
		end := epoch.Add(24 * time.Hour)
		time.Sleep(time.Until(end))
		synctest.Wait()
		if d.View().Len() != 2 {
			t.Fatal("bob went before its time")
		}
		v := <-views
		if late := time.Since(end); late > time.Millisecond || v.Len() != 1 || d.View() != v {
			t.Fatalf("%d members %v after the end", v.Len(), late)
		}
		cancel()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRunConcurrent: many submitters and readers at once, and all is saved at the end.
func TestRunConcurrent(t *testing.T) {
	w := newWorld(t, 2)
	var items []*wire.Item
	for i := range 40 {
		items = append(items, w.record(spec{key: key(bob + i), name: "m" + string(rune('a'+i%26)) + string(rune('a'+i/26)), sequence: 1}))
	}
	items = append(items, w.list(w.issuers[0], 1, epoch, w.revokedMember(items[3])), issuerItem(w.issuers[1]))
	disk := newMemory()
	synctest.Test(t, func(t *testing.T) {
		d, stop := running(t, w, disk)
		var wg sync.WaitGroup
		for _, it := range items {
			wg.Go(func() {
				views, cancel := d.Watch()
				defer cancel()
				if v, err := d.Submit(context.Background(), it); v == Invalid || err != nil {
					t.Errorf("%v %v", v, err)
				}
				<-views
				_, _ = d.Digest(context.Background())
				_, _, _, _ = d.Gone(), d.Issuers(), d.NextSequence(), d.Now()
			})
		}
		wg.Wait()
		if n := d.View().Len(); n != 39 {
			t.Errorf("%d members, want 39", n)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Submit(context.Background(), items[1]); !errors.Is(err, ErrStopped) {
			t.Errorf("submitting after the end: %v", err)
		}
		if err := d.Run(context.Background()); err == nil {
			t.Error("it ran twice")
		}
	})
	if b := newBench(t, w, disk, epoch); b.View().Len() != 39 || b.isMember(bob+3) || len(b.Issuers()) != 2 {
		t.Fatalf("loaded: %v", b.names())
	}
}

// TestRunSaves: lists are on disk when Submit returns, records a little later, and a full disk is tried again.
func TestRunSaves(t *testing.T) {
	w := newWorld(t, 1)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	l := w.list(w.issuers[0], 1, epoch, w.revokedMember(rec))
	disk := newMemory()
	synctest.Test(t, func(t *testing.T) {
		d, stop := running(t, w, disk)
		mustSubmit(t, d, rec, Accepted)
		if !disk.has(KindIssuers) || disk.has(KindRecords) {
			t.Error("the issuer of the chain is not on disk, or the cache is already")
		}
		time.Sleep(recordsDelay + time.Second)
		synctest.Wait()
		if !disk.has(KindRecords) {
			t.Error("the cache is not on disk")
		}
		disk.failWith(errors.New("no space left"))
		if _, err := d.Submit(context.Background(), l); !errors.Is(err, ErrNotSaved) {
			t.Errorf("acknowledged without a disk: %v", err)
		}
		if _, ok := d.View().ByName("bob"); ok {
			t.Error("a revocation waits for the disk")
		}
		disk.failWith(nil)
		time.Sleep(retrySave + time.Second)
		synctest.Wait()
		if !disk.has(KindRevocations) {
			t.Error("saving was not tried again")
		}
		mustSubmit(t, d, l, Stale)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSubmitNeedsRun: before Run it waits as long as its caller does.
func TestSubmitNeedsRun(t *testing.T) {
	w := newWorld(t, 1)
	rec := w.record(spec{key: key(bob), name: "bob", sequence: 1})
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(epoch))
		d, err := New(Config{Root: w.root, Self: mesh.NodeID{1}, Persist: newMemory(), Now: time.Now, Rollback: true})
		if err != nil {
			t.Fatal(err)
		}
		c, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if v, err := d.Submit(c, rec); v != Stale || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v %v", v, err)
		}
		c, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- d.Run(c) }()
		begin := time.Now()
		<-d.Settled()
		if waited := time.Since(begin); waited != settleAfter {
			t.Errorf("settled after %v, want %v", waited, settleAfter)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

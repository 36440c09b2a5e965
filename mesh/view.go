package mesh

import (
	"iter"

	"github.com/benbjohnson/immutable"
)

// View is who is in the network at one moment: valid, not revoked, not gone. It is immutable and shares structure with its
// predecessors, so that a change costs O(log n) and a snapshot costs nothing (built for 5,000 members).
type View struct {
	Network    Network
	Self       NodeID
	Generation uint64

	byID   *immutable.Map[NodeID, *Member]
	byName *immutable.Map[Name, NodeID]
	byWG   *immutable.Map[WGKey, NodeID]

	devices *immutable.Map[NodeID, *Device]
}

type nodeHasher struct{}

func (nodeHasher) Hash(id NodeID) uint32  { return hash4(id[:]) }
func (nodeHasher) Equal(a, b NodeID) bool { return a == b }

type wgHasher struct{}

func (wgHasher) Hash(k WGKey) uint32   { return hash4(k[:]) }
func (wgHasher) Equal(a, b WGKey) bool { return a == b }

// hash4 folds a key; keys are uniformly random already, but a member may choose its own, so all of it counts.
func hash4(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// NewView returns a View with no members.
func NewView(n Network, self NodeID) *View {
	return &View{
		Network: n,
		Self:    self,
		byID:    immutable.NewMap[NodeID, *Member](nodeHasher{}),
		byName:  immutable.NewMap[Name, NodeID](nil),
		byWG:    immutable.NewMap[WGKey, NodeID](wgHasher{}),
		devices: immutable.NewMap[NodeID, *Device](nodeHasher{}),
	}
}

// With returns a View in which m is a member, replacing any earlier state of the same ID.
func (v *View) With(m *Member) *View {
	next := v.without(m.ID)
	next.byID = next.byID.Set(m.ID, m)
	next.byName = next.byName.Set(m.Name, m.ID)
	next.byWG = next.byWG.Set(m.WireGuard, m.ID)
	return next
}

// Without returns a View in which id is no member.
func (v *View) Without(id NodeID) *View { return v.without(id) }

func (v *View) without(id NodeID) *View {
	next := *v
	next.Generation++
	old, ok := v.byID.Get(id)
	if !ok {
		return &next
	}
	next.byID = v.byID.Delete(id)
	if holder, ok := v.byName.Get(old.Name); ok && holder == id {
		next.byName = v.byName.Delete(old.Name)
	}
	if holder, ok := v.byWG.Get(old.WireGuard); ok && holder == id {
		next.byWG = v.byWG.Delete(old.WireGuard)
	}
	return &next
}

// Len returns the number of members, this node included.
func (v *View) Len() int { return v.byID.Len() }

// Member returns the member with this ID.
func (v *View) Member(id NodeID) (*Member, bool) { return v.byID.Get(id) }

// Me returns this node, if it is a member.
func (v *View) Me() (*Member, bool) { return v.byID.Get(v.Self) }

// ByName returns the member that holds this name.
func (v *View) ByName(n Name) (*Member, bool) {
	id, ok := v.byName.Get(n)
	if !ok {
		return nil, false
	}
	return v.byID.Get(id)
}

// ByWireGuard returns the member with this WireGuard key.
func (v *View) ByWireGuard(k WGKey) (*Member, bool) {
	id, ok := v.byWG.Get(k)
	if !ok {
		return nil, false
	}
	return v.byID.Get(id)
}

// All yields every member, this node included, in no order.
func (v *View) All() iter.Seq[*Member] {
	return func(yield func(*Member) bool) {
		for it := v.byID.Iterator(); !it.Done(); {
			if _, m, ok := it.Next(); ok && !yield(m) {
				return
			}
		}
	}
}

// Peers yields every member but this node.
func (v *View) Peers() iter.Seq[*Member] {
	return func(yield func(*Member) bool) {
		for m := range v.All() {
			if m.ID != v.Self && !yield(m) {
				return
			}
		}
	}
}

// WithDevice returns a View in which d is a device, replacing any earlier state of the same key.
func (v *View) WithDevice(d *Device) *View {
	next := *v
	next.Generation++
	next.devices = v.devices.Set(d.ID, d)
	return &next
}

// WithoutDevice returns a View without the device that has this ID.
func (v *View) WithoutDevice(id NodeID) *View {
	next := *v
	next.Generation++
	next.devices = v.devices.Delete(id)
	return &next
}

// Device returns the device with this ID (DeviceID of its key).
func (v *View) Device(id NodeID) (*Device, bool) { return v.devices.Get(id) }

// DeviceByName returns the device that holds this name. It costs O(devices), of which there are few.
func (v *View) DeviceByName(n Name) (*Device, bool) {
	for d := range v.Devices() {
		if d.Name == n {
			return d, true
		}
	}
	return nil, false
}

// Devices yields every device, in no order.
func (v *View) Devices() iter.Seq[*Device] {
	return func(yield func(*Device) bool) {
		for it := v.devices.Iterator(); !it.Done(); {
			if _, d, ok := it.Next(); ok && !yield(d) {
				return
			}
		}
	}
}

package enrol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gridwire/gridwire/mesh"
)

const (
	stateVersion = 1

	maxStateBytes  = 64 << 20
	maxInvitations = 1000   // open at one time
	maxRemembered  = 10_000 // spent and expired ones included
	maxUses        = 10_000 // of one invitation
	maxExpires     = 365 * 24 * time.Hour
	maxIssued      = 100_000
	maxRekeyed     = 10_000

	// keepExpired is how long an expired invitation is remembered (so that its refusal can say "expired"), and how long the name of an
	// expired certificate stays taken. The same 7 days bound renewal after expiry.
	keepExpired = 7 * 24 * time.Hour
	// keepDER is how long an issued certificate is kept to answer the same CSR again.
	keepDER = 7 * 24 * time.Hour
	// renewAgain: a second renewal of the same keys within this time gets the certificate of the first, which a lost answer needs and
	// which bounds how often one member can make the issuer sign and write.
	renewAgain = 10 * time.Minute
)

// invID numbers an invitation.
type invID [8]byte

func (n invID) String() string { return hex.EncodeToString(n[:]) }

// MarshalText implements encoding.TextMarshaler.
func (n invID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *invID) UnmarshalText(b []byte) error {
	d, err := hex.DecodeString(string(b))
	if err != nil || len(d) != len(n) {
		return fmt.Errorf("invitation number %.40q is not %d hexadecimal bytes", b, len(n))
	}
	*n = invID(d)
	return nil
}

// invitation is one `gridwire invite`.
type invitation struct {
	ID      invID          `json:"id"`
	Name    mesh.Name      `json:"name,omitempty"` // binds the joiner's name
	Tags    []string       `json:"tags,omitempty"`
	Routes  []netip.Prefix `json:"routes,omitempty"`
	Uses    int            `json:"uses"`
	Used    int            `json:"used"`
	By      []mesh.Name    `json:"by,omitempty"` // who took the uses, the last 16
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
	// Void: it was in a state that had gone back a generation. Whether a use was counted in the lost generation cannot be known.
	Void bool `json:"void,omitempty"`
}

// issued is the newest certificate this issuer gave to one identity key.
type issued struct {
	ID         mesh.NodeID `json:"id"`
	Name       mesh.Name   `json:"name"`
	IPv4       netip.Addr  `json:"ipv4,omitzero"`
	WireGuard  []byte      `json:"wireguard"`
	Serial     string      `json:"serial"`
	At         time.Time   `json:"at"`
	NotAfter   time.Time   `json:"not_after"`
	CSR        []byte      `json:"csr,omitempty"` // SHA-256 of the CSR
	Invitation invID       `json:"invitation,omitzero"`
	DER        []byte      `json:"certificate,omitempty"`

	Device   bool         `json:"device,omitempty"`    // ID is mesh.DeviceID
	MoreIPv4 []netip.Addr `json:"more_ipv4,omitempty"` // of a device with several gateways
}

// rekeyed is an identity that was replaced by another one under the same name; its certificate is to be revoked, once.
type rekeyed struct {
	Old      mesh.NodeID `json:"old"`
	New      mesh.NodeID `json:"new"`
	Name     mesh.Name   `json:"name"`
	Issuer   string      `json:"issuer"` // key ID of the old certificate's issuer, hexadecimal
	Serial   string      `json:"serial"`
	At       time.Time   `json:"at"`
	NotAfter time.Time   `json:"not_after"` // of the old certificate
	Revoked  bool        `json:"revoked,omitempty"`
}

// state is all that an issuer must remember. A state is immutable once it is current; next makes a copy to change.
type state struct {
	invitations map[invID]*invitation
	issued      map[mesh.NodeID]*issued
	rekeyed     map[mesh.NodeID]*rekeyed // by old ID
	cursor      uint32                   // offset in the issuer's IPv4 prefix where the search for a free address begins
}

func newState() *state {
	return &state{
		invitations: map[invID]*invitation{},
		issued:      map[mesh.NodeID]*issued{},
		rekeyed:     map[mesh.NodeID]*rekeyed{},
		cursor:      1,
	}
}

// next returns a copy whose maps may be changed (their values may not: replace them), without what is too old to matter at now.
func (s *state) next(now time.Time) *state {
	n := &state{maps.Clone(s.invitations), maps.Clone(s.issued), maps.Clone(s.rekeyed), s.cursor}
	maps.DeleteFunc(n.invitations, func(_ invID, v *invitation) bool { return now.After(v.Expires.Add(keepExpired)) })
	maps.DeleteFunc(n.issued, func(_ mesh.NodeID, v *issued) bool { return now.After(v.NotAfter.Add(keepExpired)) })
	maps.DeleteFunc(n.rekeyed, func(_ mesh.NodeID, v *rekeyed) bool { return now.After(v.NotAfter.Add(keepExpired)) })
	for id, v := range n.issued {
		if v.DER != nil && now.After(v.At.Add(keepDER)) {
			c := *v
			c.DER = nil
			n.issued[id] = &c
		}
	}
	return n
}

// void returns the state that a loss leaves: nobody is admitted by an invitation made before it, and the next IPv4 addresses are left
// out, because the lost generation may have assigned them.
func (s *state) void(now time.Time) *state {
	n := s.next(now)
	for id, v := range n.invitations {
		c := *v
		c.Void = true
		n.invitations[id] = &c
	}
	n.cursor += 16
	return n
}

// stateFile is the stored form: JSON, sorted, so that a person can read it and equal states have equal bytes.
type stateFile struct {
	Version     int           `json:"version"`
	IPv4Cursor  uint32        `json:"ipv4_cursor"`
	Invitations []*invitation `json:"invitations"`
	Issued      []*issued     `json:"issued"`
	Rekeyed     []*rekeyed    `json:"rekeyed,omitempty"`
}

// encode refuses a state that decodeState would refuse for its size: what is written must be readable at the next start.
func (s *state) encode() ([]byte, error) {
	if len(s.issued) > maxIssued || len(s.rekeyed) > maxRekeyed {
		return nil, fmt.Errorf("encoding the invitation state: %d certificates and %d rekeyed ones, at most %d and %d: use another issuer too",
			len(s.issued), len(s.rekeyed), maxIssued, maxRekeyed)
	}
	f := stateFile{
		Version:    stateVersion,
		IPv4Cursor: s.cursor,
		Invitations: slices.SortedFunc(maps.Values(s.invitations), func(a, b *invitation) int {
			return bytes.Compare(a.ID[:], b.ID[:])
		}),
		Issued:  slices.SortedFunc(maps.Values(s.issued), func(a, b *issued) int { return a.ID.Compare(b.ID) }),
		Rekeyed: slices.SortedFunc(maps.Values(s.rekeyed), func(a, b *rekeyed) int { return a.Old.Compare(b.Old) }),
	}
	b, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encoding the invitation state: %w", err)
	}
	if len(b) >= maxStateBytes {
		return nil, fmt.Errorf("encoding the invitation state: %d bytes, at most %d: use another issuer too", len(b), maxStateBytes)
	}
	return append(b, '\n'), nil
}

// decodeState reads what encode wrote. Every field is checked: a file that was edited or damaged is an error, never a state that
// admits somebody.
func decodeState(b []byte) (*state, error) {
	if len(b) > maxStateBytes {
		return nil, fmt.Errorf("invitation state of %d bytes, at most %d", len(b), maxStateBytes)
	}
	var f stateFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // an older program must not drop what a newer one wrote
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("invitation state: %w", err)
	}
	if d.More() {
		return nil, fmt.Errorf("invitation state: more data after its end")
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("invitation state has version %d, this program knows %d: use the program that wrote it", f.Version, stateVersion)
	}
	if len(f.Issued) > maxIssued || len(f.Rekeyed) > maxRekeyed {
		return nil, fmt.Errorf("invitation state with %d certificates and %d rekeyed ones, at most %d and %d",
			len(f.Issued), len(f.Rekeyed), maxIssued, maxRekeyed)
	}
	if len(f.Invitations) > maxRemembered {
		return nil, fmt.Errorf("invitation state with %d invitations, at most %d", len(f.Invitations), maxRemembered)
	}
	s := newState()
	s.cursor = f.IPv4Cursor
	for n, v := range f.Invitations {
		if err := v.check(); err != nil {
			return nil, fmt.Errorf("invitation %d of the state: %w", n, err)
		}
		if s.invitations[v.ID] != nil {
			return nil, fmt.Errorf("invitation %d of the state: number %v occurs twice", n, v.ID)
		}
		s.invitations[v.ID] = v
	}
	for n, v := range f.Issued {
		if err := v.check(); err != nil {
			return nil, fmt.Errorf("certificate %d of the invitation state: %w", n, err)
		}
		if s.issued[v.ID] != nil {
			return nil, fmt.Errorf("certificate %d of the invitation state: node %v occurs twice", n, v.ID)
		}
		s.issued[v.ID] = v
	}
	for n, v := range f.Rekeyed {
		if err := v.check(); err != nil {
			return nil, fmt.Errorf("rekeyed certificate %d of the invitation state: %w", n, err)
		}
		if s.rekeyed[v.Old] != nil {
			return nil, fmt.Errorf("rekeyed certificate %d of the invitation state: node %v occurs twice", n, v.Old)
		}
		s.rekeyed[v.Old] = v
	}
	return s, nil
}

func (v *invitation) check() error {
	switch {
	case v == nil:
		return fmt.Errorf("it is null")
	case v.ID == invID{}:
		return fmt.Errorf("it has no number")
	case v.Uses < 1 || v.Uses > maxUses:
		return fmt.Errorf("%d uses, want 1 to %d", v.Uses, maxUses)
	case v.Used < 0 || v.Used > v.Uses:
		return fmt.Errorf("%d of %d uses taken", v.Used, v.Uses)
	case v.Expires.IsZero() || v.Expires.Year() > 9999:
		return fmt.Errorf("no time of expiry")
	case v.Name != "" && v.Uses != 1:
		return fmt.Errorf("%d uses for the one name %q", v.Uses, v.Name)
	}
	if v.Name != "" {
		return checkName(v.Name)
	}
	return nil
}

func (v *issued) check() error {
	switch {
	case v == nil:
		return fmt.Errorf("it is null")
	case v.ID.IsZero():
		return fmt.Errorf("it has no node ID")
	case len(v.WireGuard) != len(mesh.WGKey{}):
		return fmt.Errorf("WireGuard key of %d bytes", len(v.WireGuard))
	case v.CSR != nil && len(v.CSR) != sha256.Size:
		return fmt.Errorf("CSR hash of %d bytes", len(v.CSR))
	case v.IPv4.IsValid() && !v.IPv4.Is4():
		return fmt.Errorf("%v is not an IPv4 address", v.IPv4)
	case v.NotAfter.IsZero():
		return fmt.Errorf("no time of expiry")
	}
	if err := v.checkDevice(); err != nil {
		return err
	}
	return checkName(v.Name)
}

func (v *rekeyed) check() error {
	if v == nil {
		return fmt.Errorf("it is null")
	}
	if v.Old.IsZero() || v.New.IsZero() || v.Old == v.New {
		return fmt.Errorf("node IDs %v and %v", v.Old, v.New)
	}
	if _, err := parseKeyID(v.Issuer); err != nil {
		return err
	}
	return checkName(v.Name)
}

// checkName wants a name in its canonical form.
func checkName(n mesh.Name) error {
	p, err := mesh.ParseName(string(n))
	if err == nil && p != n {
		err = fmt.Errorf("name %q is not in lower case", n)
	}
	return err
}

func parseKeyID(s string) (mesh.KeyID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(mesh.KeyID{}) {
		return mesh.KeyID{}, fmt.Errorf("key ID %.60q is not %d hexadecimal bytes", s, len(mesh.KeyID{}))
	}
	return mesh.KeyID(b), nil
}

package enrol

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

// The files of a membership. Ordinary tools read them: openssl pkey, openssl x509, wg pubkey.
const (
	FileIdentity  = "identity.key"   // PKCS #8, PEM, Ed25519
	FileWireGuard = "wireguard.key"  // base64, as `wg genkey` prints it
	FileSeal      = "seal.key"       // PKCS #8, PEM, X25519
	FileChain     = "chain.pem"      // leaf, issuer
	FileRoot      = "root.pem"       // the root certificate
	FileRootKey   = "root.key"       // PKCS #8, PEM, Ed25519; only where the network was founded, until it is put in a safe place
	FileSecret    = "network.secret" // base64
	FileStart     = "start.items"    // what the node was given to start with, protobuf
	FileBundle    = "bundle"         // there while the keys are those of an offline bundle

	fileNext = "membership.next" // all files of a membership that is being put in place
	fileKeys = "next.keys"       // fresh keys for a rekeying
)

// membershipFiles are the files that Save puts in place together.
var membershipFiles = [...]string{FileIdentity, FileWireGuard, FileSeal, FileChain, FileRoot, FileSecret, FileStart, FileBundle}

// Files reads and writes small files atomically; *store.Store is one. Read and Remove return fs.ErrNotExist for a file that is not there.
type Files interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error
	Remove(name string) error
}

// Save puts a membership in place: after a crash at any moment Load returns the old one or the new one, never a mixture. Files that are
// the same already are not written again.
func Save(st Files, m *Membership) error {
	if err := save(st, m); err != nil {
		return fmt.Errorf("saving this node's membership: %w", err)
	}
	return nil
}

func save(st Files, m *Membership) error {
	if _, _, _, err := m.check(); err != nil {
		return err
	}
	if err := settle(st); err != nil {
		return err
	}
	want, err := m.files()
	if err != nil {
		return err
	}
	changed := 0
	for _, name := range membershipFiles {
		have, err := st.Read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(have, want[name]) {
			changed++
		}
	}
	if changed > 1 { // one file is replaced atomically without further ado: a renewal
		if err := st.Write(fileNext, packFiles(want)); err != nil {
			return err
		}
	}
	if err := place(st, want); err != nil {
		return err
	}
	if changed > 1 {
		if err := remove(st, fileNext); err != nil {
			return err
		}
	}
	if k, err := readKeys(st); err == nil && k.ID() == m.ID() { // the rekeying that they were for is done
		return remove(st, fileKeys)
	}
	return nil
}

// files encodes m; a file that is not to be there is missing.
func (m *Membership) files() (map[string][]byte, error) {
	out, err := m.Keys.files()
	if err != nil {
		return nil, err
	}
	out[FileChain] = encodeCertificates(m.Chain)
	out[FileRoot] = encodeCertificates([][]byte{m.Root})
	out[FileSecret] = base64Line(m.Secret)
	if out[FileStart], err = proto.Marshal(&wire.SyncFrame{Items: m.Items}); err != nil {
		return nil, fmt.Errorf("encoding the items to start with: %w", err)
	}
	if m.Bundle {
		out[FileBundle] = []byte("These keys came in an offline bundle. They are replaced at the first issuer seen.\n")
	}
	return out, nil
}

func place(st Files, want map[string][]byte) error {
	for _, name := range membershipFiles {
		data, keep := want[name]
		have, err := st.Read(name)
		switch {
		case !keep && errors.Is(err, fs.ErrNotExist), keep && err == nil && bytes.Equal(have, data):
			continue
		case !keep:
			err = remove(st, name)
		default:
			err = st.Write(name, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func remove(st Files, name string) error {
	if err := st.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settle finishes a Save that a crash interrupted. A damaged fileNext was never complete (it is written atomically), or is damaged
// since; the store says which file to restore.
func settle(st Files) error {
	b, err := st.Read(fileNext)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	want, err := unpackFiles(b)
	if err != nil {
		return fmt.Errorf("%s: %w; remove it if %s and the other files are whole", fileNext, err, FileChain)
	}
	if err := place(st, want); err != nil {
		return err
	}
	return remove(st, fileNext)
}

// Load reads a membership. It returns fs.ErrNotExist (wrapped) where this node is no member. Keys that do not belong to the certificate
// are an error: a file was put back from an older copy.
func Load(st Files) (*Membership, error) {
	if err := settle(st); err != nil {
		return nil, fmt.Errorf("loading this node's membership: %w", err)
	}
	b, err := st.Read(FileChain)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this node is not a member of a network yet: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("loading this node's membership: %w", err)
	}
	m, err := load(st, b)
	if err != nil {
		return nil, fmt.Errorf("loading this node's membership: %w", err)
	}
	return m, nil
}

func load(st Files, chain []byte) (*Membership, error) {
	m := &Membership{}
	var err error
	if m.Keys, err = readFileKeys(st); err != nil {
		return nil, err
	}
	if m.Chain, err = decodeCertificates(FileChain, chain, 2); err != nil {
		return nil, err
	}
	b, err := st.Read(FileRoot)
	if err != nil {
		return nil, err
	}
	roots, err := decodeCertificates(FileRoot, b, 1)
	if err != nil {
		return nil, err
	}
	m.Root = roots[0]
	if b, err = st.Read(FileSecret); err != nil {
		return nil, err
	}
	if m.Secret, err = parseBase64Line(FileSecret, b); err != nil {
		return nil, err
	}
	if b, err = st.Read(FileStart); err == nil { // a start that is lost is found again by anti-entropy
		var f wire.SyncFrame
		if proto.Unmarshal(b, &f) == nil {
			m.Items = goodItems(f.GetItems())
		}
	}
	switch _, err = st.Read(FileBundle); {
	case err == nil:
		m.Bundle = true
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if _, _, _, err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %s, %s, %s and %s must be of one generation; restore them together", err,
			FileIdentity, FileWireGuard, FileChain, FileRoot)
	}
	return m, nil
}

// EnsureKeys returns the keys stored by an earlier try to join, or makes and stores fresh ones: a join that is tried again after a crash
// then sends the same CSR and gets the same certificate.
func EnsureKeys(st Files) (Keys, error) {
	if err := settle(st); err != nil {
		return Keys{}, fmt.Errorf("this node's keys: %w", err)
	}
	k, err := readFileKeys(st)
	if err == nil {
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, fmt.Errorf("this node's keys: %w", err)
	}
	if _, cerr := st.Read(FileChain); cerr == nil {
		return Keys{}, fmt.Errorf("this node's keys: %w, but it has a certificate: restore the missing file, or leave the network first", err)
	}
	if k, err = NewKeys(); err != nil {
		return Keys{}, err
	}
	files, err := k.files()
	if err != nil {
		return Keys{}, err
	}
	for _, name := range membershipFiles {
		if data, ok := files[name]; ok {
			if err := st.Write(name, data); err != nil {
				return Keys{}, fmt.Errorf("storing this node's keys: %w", err)
			}
		}
	}
	return k, nil
}

// NextKeys returns the fresh keys that Rekey needs, the same ones until a Save of a membership with them.
func NextKeys(st Files) (Keys, error) {
	k, err := readKeys(st)
	if err == nil {
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Keys{}, fmt.Errorf("the keys to replace the offline bundle's: %w", err)
	}
	if k, err = NewKeys(); err != nil {
		return Keys{}, err
	}
	files, err := k.files()
	if err != nil {
		return Keys{}, err
	}
	if err := st.Write(fileKeys, packFiles(files)); err != nil {
		return Keys{}, fmt.Errorf("storing the keys to replace the offline bundle's: %w", err)
	}
	return k, nil
}

func readKeys(st Files) (Keys, error) {
	b, err := st.Read(fileKeys)
	if err != nil {
		return Keys{}, err
	}
	files, err := unpackFiles(b)
	if err != nil {
		return Keys{}, fmt.Errorf("%s: %w; remove it", fileKeys, err)
	}
	return decodeKeys(func(name string) ([]byte, error) {
		if data, ok := files[name]; ok {
			return data, nil
		}
		return nil, fmt.Errorf("%s lacks %s; remove it", fileKeys, name)
	})
}

func readFileKeys(st Files) (Keys, error) { return decodeKeys(st.Read) }

// SaveRootKey stores the root key, where the network was founded.
func SaveRootKey(st Files, key pki.Key) error {
	b, err := encodePKCS8(key)
	if err == nil {
		err = st.Write(FileRootKey, b)
	}
	if err != nil {
		return fmt.Errorf("saving the root key: %w", err)
	}
	return nil
}

// LoadRootKey reads the root key; fs.ErrNotExist (wrapped) where it is not kept here.
func LoadRootKey(st Files) (pki.Key, error) {
	b, err := st.Read(FileRootKey)
	if err != nil {
		return nil, fmt.Errorf("loading the root key: %w", err)
	}
	k, err := decodePKCS8[ed25519.PrivateKey](FileRootKey, b)
	if err != nil {
		return nil, fmt.Errorf("loading the root key: %w", err)
	}
	return k, nil
}

func (k Keys) files() (map[string][]byte, error) {
	id, err := encodePKCS8(k.Identity)
	if err != nil {
		return nil, fmt.Errorf("encoding the identity key: %w", err)
	}
	seal, err := encodePKCS8(k.Seal)
	if err != nil {
		return nil, fmt.Errorf("encoding the seal key: %w", err)
	}
	return map[string][]byte{FileIdentity: id, FileWireGuard: base64Line(k.WireGuard[:]), FileSeal: seal}, nil
}

func decodeKeys(read func(string) ([]byte, error)) (Keys, error) {
	var k Keys
	b, err := read(FileIdentity)
	if err != nil {
		return Keys{}, err
	}
	if k.Identity, err = decodePKCS8[ed25519.PrivateKey](FileIdentity, b); err != nil {
		return Keys{}, err
	}
	if b, err = read(FileWireGuard); err != nil {
		return Keys{}, err
	}
	if b, err = parseBase64Line(FileWireGuard, b); err != nil {
		return Keys{}, err
	}
	if len(b) != len(k.WireGuard) {
		return Keys{}, fmt.Errorf("%s holds %d bytes, want %d", FileWireGuard, len(b), len(k.WireGuard))
	}
	k.WireGuard = [32]byte(b)
	if b, err = read(FileSeal); err != nil {
		return Keys{}, err
	}
	if k.Seal, err = decodePKCS8[*ecdh.PrivateKey](FileSeal, b); err != nil {
		return Keys{}, err
	}
	if err := k.check(); err != nil {
		return Keys{}, err
	}
	return k, nil
}

package enrol

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gridwire/gridwire/mesh"
	"github.com/gridwire/gridwire/mesh/pki"
	"github.com/gridwire/gridwire/mesh/wire"
)

const (
	nonceSize  = 16
	secretSize = 16

	hmacContext   = "gridwire enrol v1\n"
	renewContext  = "gridwire renew v1\n"
	resultContext = "gridwire enrol result v1\n"

	// maxAnswer bounds an EnrolResponse, in bytes; startItems what of it may be items to start with.
	maxAnswer  = 512 << 10
	startItems = 384 << 10
)

// requestInfo binds a sealed request to the network and the issuer that its frame names in clear: a member on the way cannot turn it
// to another issuer of the same key, nor to another network.
func requestInfo(n mesh.NetworkID, issuer mesh.NodeID) string {
	return "gridwire enrol request v1\n" + string(n[:]) + string(issuer[:])
}

func resultInfo(csr []byte) string {
	sum := sha256.Sum256(csr)
	return resultContext + string(sum[:])
}

func enrolMAC(secret, csr, nonce []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(hmacContext))
	m.Write(csr)
	m.Write(nonce)
	return m.Sum(nil)
}

// renewText is what the key of the current certificate signs. The reply key is part of it: who repeats an overheard request under a
// reply key of his own gets nothing.
func renewText(csr, nonce, replyKey []byte) []byte {
	sum := sha256.Sum256(csr) // fixed length: the parts cannot be shifted against each other
	return append(append(append([]byte(renewContext), sum[:]...), nonce...), replyKey...)
}

// invitationKey is the key from which an issuer derives its invitations' secrets.
func invitationKey(identity ed25519.PrivateKey, n mesh.NetworkID) ([]byte, error) {
	k, err := hkdf.Key(sha256.New, identity.Seed(), n[:], "gridwire invitation v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the invitation key: %w", err)
	}
	return k, nil
}

func invitationSecret(key []byte, n invID) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(n[:])
	return m.Sum(nil)[:secretSize]
}

// exchange is the joiner's half of one request: what was sent, and what opens the answer.
type exchange struct {
	frame *wire.EnrolFrame
	csr   []byte
	reply *ecdh.PrivateKey
}

// newExchange seals a request for an issuer. fill adds the proof to the request: an HMAC or a renewal's signature.
func newExchange(n mesh.NetworkID, issuer mesh.NodeID, sealKey [32]byte, keys Keys, name mesh.Name,
	fill func(*wire.EnrolRequest)) (*exchange, error) {
	wg := keys.Public()
	csr, err := pki.MakeCSR(keys.Identity, wg, name)
	if err != nil {
		return nil, err
	}
	reply, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("drawing a reply key: %w", err)
	}
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	req := &wire.EnrolRequest{Csr: csr, Nonce: nonce, Name: string(name), WireguardKey: wg[:], ReplyKey: reply.PublicKey().Bytes()}
	fill(req)
	b, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	sealed, err := wire.SealTo(sealKey, requestInfo(n, issuer), b)
	if err != nil {
		return nil, fmt.Errorf("sealing the request to issuer %s: %w", issuer.Short(), err)
	}
	return &exchange{
		frame: &wire.EnrolFrame{Version: wire.Version, Network: n[:], Issuer: issuer[:], SealedRequest: sealed},
		csr:   csr,
		reply: reply,
	}, nil
}

// open reads the answer: a result, or an *Error that says who refused and why.
func (x *exchange) open(resp *wire.EnrolResponse) (*wire.EnrolResult, error) {
	if len(resp.GetSealedResult()) == 0 {
		code := resp.GetCode()
		if code == wire.EnrolError_ENROL_OK {
			code = wire.EnrolError_ENROL_BAD_REQUEST
		}
		text := clean(resp.GetError())
		if text == "" {
			text = "the answer is empty"
		}
		return nil, &Error{Code: code, Text: text, Hearsay: true}
	}
	b, err := wire.OpenWith(x.reply, resultInfo(x.csr), resp.GetSealedResult())
	if err != nil {
		return nil, &Error{Code: wire.EnrolError_ENROL_BAD_REQUEST, Hearsay: true,
			Text: "the answer was not made by the issuer for this request; the member it came through may have altered it"}
	}
	res := new(wire.EnrolResult)
	if err := proto.Unmarshal(b, res); err != nil {
		return nil, refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the issuer's answer cannot be read (%v); update gridwire", err)
	}
	if res.GetCode() != wire.EnrolError_ENROL_OK || res.GetError() != "" {
		return nil, &Error{Code: res.GetCode(), Text: clean(res.GetError())}
	}
	return res, nil
}

// ask is a request as the issuer reads it: sizes, CSR and formal consistency are checked, the proof is not.
type ask struct {
	csr     [sha256.Size]byte // SHA-256
	id      mesh.NodeID
	wg      mesh.WGKey
	wish    mesh.Name // "": none
	renewal bool
	inv     invID
	req     *wire.EnrolRequest
}

// parseAsk checks what was sealed. When it returns an error, the request comes with it if the answer can be sealed to its reply key.
func parseAsk(b []byte) (*ask, *wire.EnrolRequest, *Error) {
	bad := func(format string, args ...any) *Error {
		return refuse(wire.EnrolError_ENROL_BAD_REQUEST, "the request is malformed: "+format+"; update gridwire on the joining machine", args...)
	}
	req := new(wire.EnrolRequest)
	if err := proto.Unmarshal(b, req); err != nil {
		return nil, nil, bad("%v", err)
	}
	if len(req.GetReplyKey()) != 32 {
		return nil, nil, bad("reply key of %d bytes, want 32", len(req.GetReplyKey()))
	}
	if len(req.GetNonce()) != nonceSize {
		return nil, req, bad("nonce of %d bytes, want %d", len(req.GetNonce()), nonceSize)
	}
	csr, err := pki.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, req, bad("%v", err)
	}
	a := &ask{csr: sha256.Sum256(req.GetCsr()), id: mesh.NodeIDOf(csr.Identity), wg: csr.WireGuard, wish: csr.Name, req: req}
	if k := req.GetWireguardKey(); len(k) > 0 && string(k) != string(a.wg[:]) {
		return nil, req, bad("its WireGuard key differs from the one in the CSR")
	}
	if req.GetName() != "" {
		if a.wish, err = mesh.ParseName(req.GetName()); err != nil {
			return nil, req, bad("%v", err)
		}
	}
	if len(req.GetRenewChain()) > 0 || len(req.GetRenewSignature()) > 0 {
		a.renewal = true
		return a, req, nil
	}
	if len(req.GetInvitation()) != len(a.inv) {
		return nil, req, bad("invitation number of %d bytes, want %d", len(req.GetInvitation()), len(a.inv))
	}
	a.inv = invID(req.GetInvitation())
	return a, req, nil
}

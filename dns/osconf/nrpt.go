package osconf

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
)

// nrpt is Windows' way: a rule in the name resolution policy table sends questions for some domains to servers of their own ([MS-GPNRPT]
// section 2.2.2). Search has no effect.
//
// The table is read from one of two places: if there is any rule of a group policy, those of the machine itself do not count, and ours
// has to be among the policy's.
type nrpt struct{ env Env }

const (
	nrptLocal   = `SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig`
	nrptPolicy  = `SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig`
	nrptVersion = uint32(2)    // the format of a rule, since Windows 8
	nrptServers = uint32(0x08) // ConfigOptions: GenericDNSServers is meant; no DNSSEC, no DirectAccess
	nrptComment = "gridwire "  // and the interface: what marks a rule as ours
)

func (n *nrpt) name() string                    { return "name resolution policy table" }
func (n *nrpt) needsUpstream() bool             { return false }
func (n *nrpt) upstream() ([]netip.Addr, error) { return nil, nil }

// nrptRule returns the rule's key, which has to look like a GUID, and its values. A leading dot means the domain and all below it.
func nrptRule(s Settings) (key string, values map[string]any) {
	var names, addresses []string
	for _, d := range s.domains() {
		names = append(names, "."+d)
	}
	for _, a := range s.Servers {
		addresses = append(addresses, a.String())
	}
	return nrptKey(s.Interface), map[string]any{
		"Version":            nrptVersion,
		"ConfigOptions":      nrptServers,
		"Name":               names,
		"GenericDNSServers":  strings.Join(addresses, ";"),
		"IPSECCARestriction": "",
		"Comment":            nrptComment + s.Interface,
	}
}

// nrptKey is made of the interface's name, so that a killed agent finds its rule again (RFC 9562 section 5.8).
func nrptKey(iface string) string {
	sum := sha256.Sum256([]byte("gridwire name resolution policy " + iface))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("{%x-%x-%x-%x-%x}", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// place returns where a rule counts.
func (n *nrpt) place() (string, error) {
	r, err := n.env.Registry(nrptPolicy)
	if err != nil {
		return "", err
	}
	rules, err := r.Folders()
	if err = errors.Join(err, r.Close()); err != nil {
		return "", fmt.Errorf("read the group policy's rules: %w", err)
	}
	if len(rules) > 0 {
		return nrptPolicy, nil
	}
	return nrptLocal, nil
}

func (n *nrpt) apply(ctx context.Context, s Settings) error {
	if err := n.remove(s.Interface); err != nil { // also, so that our own rule does not look like another's policy
		return err
	}
	place, err := n.place()
	if err != nil {
		return err
	}
	r, err := n.env.Registry(place)
	if err != nil {
		return err
	}
	key, values := nrptRule(s)
	if err := errors.Join(r.Write(key, values), r.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the rule: %w", rights(err)), n.remove(s.Interface))
	}
	return n.refreshed(ctx)
}

func (n *nrpt) revert(ctx context.Context, s Settings) error {
	if err := n.remove(s.Interface); err != nil {
		return err
	}
	return n.refreshed(ctx)
}

func (n *nrpt) refreshed(ctx context.Context) error {
	if n.env.Refresh == nil {
		return nil
	}
	return n.env.Refresh(ctx)
}

// remove deletes an interface's rule in both places, unless it does not carry our mark.
func (n *nrpt) remove(iface string) error {
	key := nrptKey(iface)
	var errs []error
	for _, place := range []string{nrptLocal, nrptPolicy} {
		r, err := n.env.Registry(place)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		values, err := r.Read(key)
		switch {
		case err != nil:
		case len(values) > 0 && values["Comment"] != nrptComment+iface:
			err = fmt.Errorf(`HKLM\%s\%s is not as gridwire wrote it: %w; it is left alone`, place, key, ErrChanged)
		case len(values) > 0:
			err = rights(r.Delete(key))
		}
		errs = append(errs, err, r.Close())
	}
	return errors.Join(errs...)
}

func (n *nrpt) refresh(_ context.Context, s Settings) error {
	place, err := n.place()
	if err != nil {
		return err
	}
	r, err := n.env.Registry(place)
	if err != nil {
		return err
	}
	key, want := nrptRule(s)
	now, err := r.Read(key)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !reflect.DeepEqual(now, want) {
		return fmt.Errorf(`HKLM\%s\%s: %w; gridwire steps back`, place, key, ErrChanged)
	}
	return nil
}

func (n *nrpt) wake(context.Context) (<-chan struct{}, func(), error) { return nil, nil, nil }

// restoreNRPT deletes the rules of killed agents.
func restoreNRPT(ctx context.Context, e Env) (done []string, err error) {
	var errs []error
	n := &nrpt{e}
	for _, place := range []string{nrptLocal, nrptPolicy} {
		r, err := e.Registry(place)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		folders, err := r.Folders()
		errs = append(errs, err)
		for _, key := range folders {
			values, err := r.Read(key)
			comment, _ := values["Comment"].(string)
			iface, ours := strings.CutPrefix(comment, nrptComment)
			if err != nil || !ours || key != nrptKey(iface) || e.alive(iface) {
				continue
			}
			if err := r.Delete(key); err != nil {
				errs = append(errs, rights(err))
				continue
			}
			done = append(done, fmt.Sprintf(`HKLM\%s\%s: deleted`, place, key))
		}
		errs = append(errs, r.Close())
	}
	if len(done) > 0 {
		errs = append(errs, n.refreshed(ctx))
	}
	return done, errors.Join(errs...)
}

package web

import (
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// tokenHeader carries the token. A header of our own cannot be sent by another site's page without asking first (the Fetch standard's
// CORS preflight), which is never allowed here.
const tokenHeader = "X-Gridwire-Token"

func (p *Page) allowed(r *http.Request) bool {
	return subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(p.token)) == 1
}

// policy lets the page load nothing but its own files, be framed by nobody, and send nothing anywhere else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard keeps other sites' pages away. Two ways are open to them: to point a name of their own at 127.0.0.1 (DNS rebinding), where the
// browser says that name in Host; and to send requests across sites, where it says so in Sec-Fetch-Site or Origin.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cache-Control", "no-cache") // or an old script would meet a new agent
		if !localHost(r.Host) {
			fail(w, http.StatusMisdirectedRequest, "this page answers to an IP address or to localhost only, not to the name "+clip(r.Host))
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			// A link from elsewhere to the page itself is no harm: it shows nothing to where it came from.
			if r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document" || r.URL.Path != "/" {
				fail(w, http.StatusForbidden, "a page of another site may not ask here")
				return
			}
		}
		if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
			fail(w, http.StatusForbidden, "a page of another site may not ask here")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether Host names this machine in a way that no other machine's DNS can: an IP address, localhost, or (over the unix
// socket) whatever the client calls it there, "agent".
func localHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if name == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

func clip(s string) string { return s[:min(len(s), 80)] }

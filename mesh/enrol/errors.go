package enrol

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gridwire/gridwire/mesh/wire"
)

// Error is a refusal: a sentence that says which one it is and what to do, and its code.
type Error struct {
	Code wire.EnrolError
	Text string
	// Hearsay is set where the refusal did not come sealed from the issuer: any member on the way could have made it up.
	Hearsay bool
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Text }

// Code returns the code of the *Error in err's tree: ENROL_OK for nil, ENROL_UNREACHABLE where there is none.
func Code(err error) wire.EnrolError {
	var e *Error
	switch {
	case err == nil:
		return wire.EnrolError_ENROL_OK
	case errors.As(err, &e):
		return e.Code
	}
	return wire.EnrolError_ENROL_UNREACHABLE
}

// Final reports whether somebody said no, as against: could not be asked, or was too busy to say anything.
func Final(err error) bool {
	switch Code(err) {
	case wire.EnrolError_ENROL_OK, wire.EnrolError_ENROL_UNREACHABLE, wire.EnrolError_ENROL_RATE_LIMITED:
		return false
	}
	return true
}

// CheckToken says what is wrong with a token's text, if anything. It asks nobody.
func CheckToken(text string) error {
	_, err := wire.DecodeToken(text)
	return err
}

// BadToken reports whether the text of a token alone shows that it would be refused.
func BadToken(err error) bool {
	return errors.Is(err, wire.ErrTokenTruncated) || errors.Is(err, wire.ErrTokenDamaged) || errors.Is(err, wire.ErrTokenNotOurs) || errors.Is(err, wire.ErrTokenVersion)
}

func refuse(code wire.EnrolError, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// plain puts a refusal into a response that nothing could be sealed in.
func plain(e *Error) *wire.EnrolResponse {
	return &wire.EnrolResponse{Code: e.Code, Error: clean(e.Text)}
}

const askAgain = "ask a member that issues certificates for a new one (gridwire invite)"

// clean makes text that comes from outside, or quotes it, fit for a terminal and a log: printable, at most 600 bytes.
func clean(s string) string {
	const limit = 600
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// stamp writes a time as refusals show it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

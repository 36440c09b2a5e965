//go:build !gridwire_short_hours

package usage

import "time"

// Period is what one statement is about: a full hour, UTC.
const Period = time.Hour

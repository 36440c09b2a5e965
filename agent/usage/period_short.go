//go:build gridwire_short_hours

package usage

import "time"

// Period is short in the program that the end-to-end test builds for itself.
const Period = 6 * time.Second

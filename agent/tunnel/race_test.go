//go:build race

package tunnel

// raceEnabled: the race detector multiplies memory, so the test of it would measure the detector.
const raceEnabled = true

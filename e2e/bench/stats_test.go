//go:build linux

package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

// The tables of the sign test: with 30 values the 11th is the one-sided 95 % bound and the 10th the two-sided one; 5 values are the
// fewest with a one-sided bound, 6 with a two-sided one.
func TestRanks(t *testing.T) {
	for _, c := range []struct {
		n     int
		alpha float64
		want  int
	}{{30, 0.05, 11}, {30, 0.025, 10}, {5, 0.05, 1}, {4, 0.05, 0}, {6, 0.025, 1}, {5, 0.025, 0}, {10, 0.025, 2}, {0, 0.05, 0}} {
		if got := rank(c.n, c.alpha); got != c.want {
			t.Errorf("rank(%d, %v) = %d, want %d", c.n, c.alpha, got, c.want)
		}
	}
}

// TestCoverage draws samples from a skewed distribution and counts how often the bounds hold.
func TestCoverage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const trials, n = 2000, 30
	trueMedian := math.Ln2 // of the exponential distribution with rate 1
	var low, high, both int
	for range trials {
		values := make([]float64, n)
		for i := range values {
			values[i] = r.ExpFloat64()
		}
		if lower(values) <= trueMedian {
			low++
		}
		if upper(values) >= trueMedian {
			high++
		}
		if l, h := between(values); l <= trueMedian && trueMedian <= h {
			both++
		}
	}
	for name, hits := range map[string]int{"lower": low, "upper": high, "between": both} {
		if share := float64(hits) / trials; share < confidence-0.01 {
			t.Errorf("%s holds in %.3f of the trials, want %.2f", name, share, confidence)
		}
	}
}

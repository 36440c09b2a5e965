//go:build linux

package main

import (
	"math"
	"slices"
)

// confidence of every bound in the report.
const confidence = 0.95

// median returns the median of values, NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// rank returns the largest k such that the k-th smallest of n values lies above the median with a probability of at most alpha: at most
// k-1 of n values are below the median when Binomial(n, 1/2) < k. 0: n is too small to say anything.
func rank(n int, alpha float64) int {
	p, cumulated := math.Pow(0.5, float64(n)), 0.0
	for k := 0; k < n; k++ {
		cumulated += p // P(Binomial <= k)
		if cumulated > alpha {
			return k
		}
		p *= float64(n-k) / float64(k+1)
	}
	return n
}

// lower returns the one-sided lower confidence bound of the median: minus infinity where there are too few values.
func lower(values []float64) float64 {
	k := rank(len(values), 1-confidence)
	if k == 0 {
		return math.Inf(-1)
	}
	return slices.Sorted(slices.Values(values))[k-1]
}

// upper returns the one-sided upper confidence bound of the median.
func upper(values []float64) float64 {
	k := rank(len(values), 1-confidence)
	if k == 0 {
		return math.Inf(1)
	}
	return slices.Sorted(slices.Values(values))[len(values)-k]
}

// between returns the two-sided confidence interval of the median.
func between(values []float64) (low, high float64) {
	k := rank(len(values), (1-confidence)/2)
	if k == 0 {
		return math.Inf(-1), math.Inf(1)
	}
	s := slices.Sorted(slices.Values(values))
	return s[k-1], s[len(s)-k]
}

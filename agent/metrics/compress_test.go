package metrics

import (
	"compress/gzip"
	"io"
	"net/http/httptest"
	"testing"
)

func TestCompressedForWhoTakesIt(t *testing.T) {
	h := Handler(example)
	plain := series(get(t, h, ""))
	for accept, want := range map[string]bool{
		"": false, "gzip": true, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000": false, "gzip;q=0.001": true, "br": false, "identity": false, "zstd,gzip": true,
	} {
		for range 2 { // the second uses what the first has left
			r := httptest.NewRequest("GET", "/metrics", nil)
			r.Header.Set("Accept-Encoding", accept)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != want {
				t.Errorf("%q: compressed %v, want %v", accept, got, want)
			}
			var body io.Reader = w.Body
			if want {
				var err error
				if body, err = gzip.NewReader(w.Body); err != nil {
					t.Fatal(err)
				}
			}
			b, err := io.ReadAll(body)
			if err != nil || len(series(string(b))) != len(plain) {
				t.Errorf("%q: %d series, want %d; %v", accept, len(series(string(b))), len(plain), err)
			}
		}
	}
}

package buckettest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// signed tries URLs as somebody without credentials would.
func signed(t *testing.T, b *bucket.Bucket, caps Caps, get string) {
	t.Helper()
	if status, body := request(t, "GET", get, nil, nil); status != http.StatusOK || body != "signed" {
		t.Errorf("signed GET: %d %s", status, short(body))
	}
	path, query, _ := strings.Cut(get, "?")
	if status, _ := request(t, "GET", path+"2?"+query, nil, nil); status != http.StatusForbidden {
		t.Errorf("the signature of one key opens another: %d", status)
	}
	if status, _ := request(t, "PUT", get, caps.PutHeaders, []byte("x")); status != http.StatusForbidden {
		t.Errorf("a GET's signature lets one PUT: %d", status)
	}
	put, err := b.SignedURL(t.Context(), "PUT", "dir/new", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := request(t, "PUT", put, caps.PutHeaders, []byte("by url")); status/100 != 2 {
		t.Errorf("signed PUT: %d %s", status, body)
	}
	holds(t, b, "dir/new", "by url")
	del, err := b.SignedURL(t.Context(), "DELETE", "dir/new", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := request(t, "DELETE", del, nil, nil); status/100 != 2 {
		t.Errorf("signed DELETE: %d %s", status, body)
	}
	brief, err := b.SignedURL(t.Context(), "GET", "dir/k", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// The server has a clock of its own, so this waits on it.
	for deadline := time.Now().Add(10 * time.Second); ; {
		status, _ := request(t, "GET", brief, nil, nil)
		if status == http.StatusForbidden {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a URL signed for a second still opens after ten: %d", status)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func request(t *testing.T, method, url string, header http.Header, body []byte) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(read)
}

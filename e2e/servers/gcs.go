package servers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// FakeGCSVersion is the Google emulator that the tests run against. It checks
// neither signatures nor permissions, and real SlateDB cannot write to it.
const FakeGCSVersion = "v1.56.1"

// GCSServer is a fake-gcs-server that keeps everything in memory.
type GCSServer struct{ *Process }

// GCS starts a server. It has no buckets yet.
func GCS(t testing.TB) *GCSServer {
	t.Helper()
	fake := goTool(t, "fake-gcs-server", "github.com/fsouza/fake-gcs-server", FakeGCSVersion)
	p := launch(t, func(port int) *exec.Cmd {
		return exec.CommandContext(context.Background(), fake, "-scheme", "http", "-host", "127.0.0.1", "-port", strconv.Itoa(port),
			"-backend", "memory", "-data", "", "-public-host", fmt.Sprintf("127.0.0.1:%d", port))
	}, "/_internal/healthcheck", false)
	return &GCSServer{p}
}

// Make creates a bucket and returns its URL for bucket.Open.
func (s *GCSServer) Make(t testing.TB, name string) string {
	t.Helper()
	s.do(t, http.MethodPost, "/storage/v1/b?project=test", fmt.Sprintf(`{"name":%q}`, name))
	return s.URL(name)
}

// URL is the URL of a bucket for bucket.Open, whether it exists or not.
func (s *GCSServer) URL(name string) string {
	return fmt.Sprintf("gs://%s?endpoint=http://127.0.0.1:%d", name, s.Port)
}

// Remove takes a bucket away, which must be empty.
func (s *GCSServer) Remove(t testing.TB, name string) {
	t.Helper()
	s.do(t, http.MethodDelete, "/storage/v1/b/"+name, "")
}

func (s *GCSServer) do(t testing.TB, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", s.Port, path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
	}
}

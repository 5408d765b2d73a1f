package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// VersityVersion is the S3 gateway that the tests run against.
const VersityVersion = "v1.8.0"

// S3Server is a versitygw over a folder: each sub-folder is a bucket.
type S3Server struct {
	*Process
	// Dir is the folder. Files put there by hand are objects without an ETag.
	Dir string
}

// S3 starts a server. It has no buckets yet. It sets the test's AWS environment
// to its keys, so all S3 servers of a test share them; it cannot be used in a
// parallel test.
func S3(t testing.TB) *S3Server {
	t.Helper()
	gateway := goTool(t, "versitygw", "github.com/versity/versitygw/cmd/versitygw", VersityVersion)
	for name, value := range S3Env() {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	p := launch(t, func(port int) *exec.Cmd {
		cmd := exec.CommandContext(context.Background(), gateway, "--port", fmt.Sprintf("127.0.0.1:%d", port), "--health", "/healthz", "--quiet", "posix", dir)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3Key, "ROOT_SECRET_KEY="+s3Secret)
		return cmd
	}, "/healthz", false)
	return &S3Server{Process: p, Dir: dir}
}

const s3Key, s3Secret = "quarrytest", "quarrytestsecret"

// S3Env is what a process needs in its environment to use the servers of [S3].
func S3Env() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID":         s3Key,
		"AWS_SECRET_ACCESS_KEY":     s3Secret,
		"AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE":           "/dev/null",
		"AWS_PROFILE":               "",
		"AWS_SESSION_TOKEN":         "",
	}
}

// Endpoint is the server's address as a URL.
func (s *S3Server) Endpoint() string { return fmt.Sprintf("http://127.0.0.1:%d", s.Port) }

// Make creates a bucket and returns its URL for bucket.Open.
func (s *S3Server) Make(t testing.TB, name string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.Dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	return s.URL(name)
}

// URL is the URL of a bucket for bucket.Open, whether it exists or not.
func (s *S3Server) URL(name string) string {
	return fmt.Sprintf("s3://%s?endpoint=%s&region=us-east-1", name, s.Endpoint())
}

// Remove takes a bucket away, with everything in it.
func (s *S3Server) Remove(t testing.TB, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

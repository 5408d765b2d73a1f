//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/quarry-db/quarry/e2e/peers"
)

// Some tests need what no user may have: a process that dies at a chosen write,
// one whose clock is wrong. They run builds of their own, made with -tags
// testhooks when the first test asks; the ordinary binary refuses to be asked.

// gated is the program that asks at a gate before and after each write.
var gated = sync.OnceValues(func() (string, error) { return build("quarry-gated", "-tags", "testhooks") })

// skewed is the program whose wall clock is off by as many seconds as the file
// QUARRY_TEST_CLOCK says at the moment, in every package that it is made of:
// package time itself is built anew. Its monotonic clock is right, as it is on a
// machine whose wall clock is set.
var skewed = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const now, imports = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "import (\n"
	if bytes.Count(text, []byte(now)) != 1 || bytes.Count(text, []byte(imports)) != 1 {
		return "", fmt.Errorf("%s of %s has another time.Now than this test knows: say here where its seconds are", source, version.Lang(runtime.Version()))
	}
	text = bytes.Replace(text, []byte(now), []byte(now+"\tsec += quarryOffset()\n"), 1)
	text = bytes.Replace(text, []byte(imports), []byte(imports+"\t\"syscall\"\n"), 1)
	text = append(text, `
// quarryClock is mapped: eight bytes, by how many seconds the clock is ahead.
var quarryClock = func() []byte {
	name, set := syscall.Getenv("QUARRY_TEST_CLOCK")
	if !set {
		return make([]byte, 8)
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		panic(err)
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return b
}()

func quarryOffset() (n int64) {
	for _, b := range quarryClock {
		n = n<<8 | int64(b)
	}
	return n
}
`...)
	dir := filepath.Dir(binary)
	replaced := filepath.Join(dir, "time.go")
	if err := os.WriteFile(replaced, text, 0o600); err != nil {
		return "", err
	}
	raw, err := json.Marshal(map[string]map[string]string{"Replace": {source: replaced}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, raw, 0o600); err != nil {
		return "", err
	}
	return build("quarry-skewed", "-tags", "testhooks", "-overlay", overlay)
})

func build(name string, flags ...string) (string, error) {
	to := filepath.Join(filepath.Dir(binary), name)
	c := exec.Command("go", append(append([]string{"build", "-o", to}, flags...), ".")...)
	c.Dir = peers.Repo()
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return to, nil
}

// built is a build of the program, or the end of the test.
func built(t testing.TB, f func() (string, error)) string {
	t.Helper()
	path, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// The program that people run cannot be made to lie about the time, or to die:
// it says so and does nothing.
func TestTheOrdinaryProgramHasNoHooksForTests(t *testing.T) {
	for _, name := range []string{"QUARRY_TEST_CLOCK=/nowhere", "QUARRY_TEST_GATE=/nowhere", "QUARRY_TEST_EFFECT_WITHIN=1s"} {
		for _, args := range [][]string{{"version"}, {"agent", "--region", "eu"}, {"hub", "--regions", "eu"}} {
			o := quarry(t, []string{name}, args...)
			variable, _, _ := strings.Cut(name, "=")
			if o.code != 2 || !strings.Contains(o.stderr, variable) || !strings.Contains(o.stderr, "unset it") || o.stdout != "" {
				t.Errorf("%s quarry %v: exit %d\n%s%s", name, args, o.code, o.stdout, o.stderr)
			}
		}
	}
}

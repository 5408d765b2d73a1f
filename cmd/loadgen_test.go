package cmd

import (
	"bytes"
	"strings"
	"testing"
)

// The load tool is for those who know of it, and tells a wrong call from a hub
// that is not there.
func TestLoadgenSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no region", []string{"--slates", "1"}, exitUsage, "Regions is empty"},
		{"a region twice", []string{"--regions", "a,a"}, exitUsage, "twice"},
		{"no slates", []string{"--regions", "a", "--slates", "0"}, exitUsage, "Slates 0"},
		{"a negative rate", []string{"--regions", "a", "--rate", "-1"}, exitUsage, "--rate -1"},
		{"a negative time", []string{"--regions", "a", "--duration", "-1s"}, exitUsage, "--duration -1s"},
		{"no agents", []string{"--regions", "a", "--agents", "0"}, exitUsage, "--agents 0"},
		{"no hub there", []string{"--regions", "a", "--hub", "127.0.0.1:1"}, exitUnreachable, "is a hub running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, said bytes.Buffer
			a := &app{out: &out, err: &said, in: strings.NewReader("")}
			if code := a.run(t.Context(), append([]string{"loadgen"}, c.args...)); code != c.code || !strings.Contains(said.String(), c.says) || out.Len() > 0 {
				t.Errorf("exit code %d, want %d; it says %q and prints %q", code, c.code, said.String(), out.String())
			}
		})
	}
	var out bytes.Buffer
	a := &app{out: &out, err: &out, in: strings.NewReader("")}
	if a.run(t.Context(), []string{"--help"}); strings.Contains(out.String(), "loadgen") {
		t.Error("it is in everybody's help")
	}
}

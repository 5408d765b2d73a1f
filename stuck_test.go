package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// docs/stuck.md says what a person does about every stage of a decision and every
// reason that anybody can be given.
func TestEveryReasonIsInThePageAboutWhatIsStuck(t *testing.T) {
	page := contents(t, "docs/stuck.md")
	has := func(what string) {
		if !regexp.MustCompile("(?m)^\\|[^|]*`" + regexp.QuoteMeta(what) + "`[^|]*\\|").MatchString(page) {
			t.Errorf("docs/stuck.md does not say what to do about %q", what)
		}
	}
	for _, s := range catalog.Stages {
		has(string(s))
	}
	codes := 0
	for file, pattern := range map[string]string{
		"pkg/catalog/decision.go": `(?m)^\tCode\w+\s*= "([a-z-]+)"`,
		"regions/plan/verdict.go": `(?m)^\t\w+\s+Code = "([a-z-]+)"`,
		"hub/state/decisions.go":  `errors\.New\("(breaker-open|quota-exceeded)"\)`,
	} {
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(contents(t, file), -1)
		if len(found) < 2 {
			t.Errorf("%s: only %d codes are found; where are they now?", file, len(found))
		}
		for _, m := range found {
			has(m[1])
			codes++
		}
	}
	t.Logf("%d stages, %d codes", len(catalog.Stages), codes)
	// And it speaks of no command that is not there.
	for _, m := range regexp.MustCompile("`quarry ([a-z]+)").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(" explain get describe summary approve refuse region apply policy release thaw breaker doctor slatedb ", " "+m[1]+" ") {
			t.Errorf("quarry %s: is there such a command?", m[1])
		}
	}
}

func contents(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

package cmd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
)

// carriedAs is an answer about a slate that may be trimmed, with steps as
// "region doing why".
func carriedAs(steps ...string) string {
	var list []string
	for _, s := range steps {
		p := append(strings.SplitN(s, " ", 3), "")
		list = append(list, fmt.Sprintf(`{"region":%q,"doing":%q,"why":%q}`, p[0], p[1], p[2]))
	}
	return `{"slate":"a","action":"permit","up_to":80,"wanted":80,"plan":"p-1","decisions":[],"steps":[` + strings.Join(list, ",") + `]}`
}

const trimmed = "POST /v1/slates/a:trim"

func TestATrimThatDoesNothingSaysWhy(t *testing.T) {
	for what, c := range map[string]struct {
		steps []string
		code  int
		says  string
		not   string
	}{
		"published":            {[]string{"eu published", "us published"}, 0, "it is published already", "nothing is"},
		"published in one":     {[]string{"eu published", "us none region us is stale"}, 0, "it is published already in eu; in us nothing is: region us is stale", "nobody"},
		"nowhere":              {[]string{"eu none too few", "us none region us is stale"}, exitRefused, "nothing is published; in eu nothing is: too few; in us nothing is: region us is stale", "already"},
		"the hold is the trim": {[]string{"eu none " + state.CutByHold}, 0, "the hold of its policy goes on by itself", "already"},
	} {
		for _, args := range [][]string{{"--yes", "--wait"}, {"--yes"}, {}, {"--dry-run"}} {
			h := newFakeHub(t, map[string][]string{trimmed + " dry": {carriedAs(c.steps...)}, trimmed: {carriedAs(c.steps...)}})
			code, out, text := h.says(t, append([]string{"trim", "a"}, args...)...)
			if said := out + text; code != c.code || !strings.Contains(said, c.says) || strings.Contains(said, c.not) || h.did(trimmed) != (len(args) > 0 && args[0] == "--yes") {
				t.Errorf("%s %v: exit %d, asked %v: %s%s", what, args, code, h.asked, out, text)
			}
		}
	}
}

func TestTheHintOfATrimAsksForTheSame(t *testing.T) {
	h := newFakeHub(t, map[string][]string{trimmed + " dry": {carriedAs("eu permit")}, "POST /v1/slates/it's:trim dry": {carriedAs("eu permit")}})
	if code, _, text := h.says(t, "trim", "a", "--up-to", "0", "--region", "eu"); code != 0 || !strings.Contains(text, "quarry trim a --up-to 0 --region eu --plan p-1 --yes\n") || h.did(trimmed) {
		t.Errorf("exit %d: %s", code, text)
	}
	if _, _, text := h.says(t, "trim", "it's"); !strings.Contains(text, `quarry trim 'it'\''s' --plan p-1 --yes`) {
		t.Errorf("%s", text)
	}
}

package cmd

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// A format that there is not is refused before the deed, and not after it.
func TestAFormatThatThereIsNotIsRefusedFirst(t *testing.T) {
	done := []string{`{"done":true,"what":"it is done","by":"ann"}`}
	for words, path := range map[string]string{
		"region accept us --yes":               "POST /v1/regions/us:accept",
		"region join us --yes":                 "POST /v1/regions/us:join",
		"region retire us --yes":               "POST /v1/regions/us:retire",
		"forget placement a --region us --yes": "POST /v1/placements:forget",
		"freeze --region us":                   "POST /v1/freezes:freeze",
		"thaw --region us --yes":               "POST /v1/freezes:thaw",
		"hold a --name case":                   applied,
		"release case --yes":                   "POST /v1/holds/case:release",
	} {
		h := newFakeHub(t, map[string][]string{path: done, "GET /v1/holds/case": {`{"item":{"name":"case"}}`}})
		if code, out, text := h.says(t, append(strings.Fields(words), "-o", "jsno")...); code != exitUsage || len(h.asked) > 0 || !strings.Contains(text, `-o "jsno"`) {
			t.Errorf("%s -o jsno: exit %d, asked %v: %s%s", words, code, h.asked, out, text)
		}
		code, out, text := h.says(t, append(strings.Fields(words), "-o", "json")...)
		var got apiclient.Done
		if err := json.Unmarshal([]byte(out), &got); code != 0 || !h.did(path) || err != nil || !got.Done {
			t.Errorf("%s -o json: exit %d, %v, asked %v: %s%s", words, code, err, h.asked, out, text)
		}
	}
	// A command with a hook of its own would not be checked.
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && (sub.PersistentPreRunE != nil || sub.PersistentPreRun != nil || sub.LocalNonPersistentFlags().Lookup("output") != nil) {
				t.Errorf("%s is not checked", sub.CommandPath())
			}
			each(sub)
		}
	}
	a := &app{}
	each(newRoot(a))
	var out bytes.Buffer
	b := &app{out: &out, err: io.Discard}
	if code := b.run(t.Context(), []string{"__complete", "get", "-o", "js"}); code != 0 || !strings.Contains(out.String(), "json\n") {
		t.Errorf("completion: exit %d: %s", code, out.String())
	}
}

package api

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// What docs/api.md names is there, and every resource is one that it names.
func TestTheDocumentationNamesWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	ops := operations()
	named := regexp.MustCompile("`(GET|POST) (/v1/[^` ]+)`").FindAllSubmatch(text, -1)
	if len(named) < 10 {
		t.Fatalf("%d operations are named in docs/api.md", len(named))
	}
	for _, m := range named {
		if !slices.ContainsFunc(ops, func(op *operation) bool { return op.method == string(m[1]) && op.path == string(m[2]) }) {
			t.Errorf("docs/api.md names %s %s, and there is no such operation", m[1], m[2])
		}
	}
	for _, r := range resources() {
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(r.name) + `\b`).Match(text) {
			t.Errorf("docs/api.md does not name %s", r.name)
		}
	}
}

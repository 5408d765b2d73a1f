package regions

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/goccy/go-yaml"
)

// The schema takes what the parser takes, and refuses slips of the pen that an
// editor can see.
func TestEditorsKnowWhatADocumentMaySay(t *testing.T) {
	b, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	var schema openapi3.Schema
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	head := "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: a, owner: team}\n"
	hold := "apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: a}\n"
	for text, ok := range map[string]bool{
		head + "select: {kinds: [snapshots], regions: [\"eu-*\"], except: {labels: {legal: \"yes\"}}}\ntrim: {require: {atLeast: 2, include: [ams]}, safetyGap: {positions: 1000, age: 10m}, maxLag: {age: 1h, then: alert}}\n" +
			"restorePoints: {perRegion: 3, total: 4, maxAgeOfNewest: 6h, keep: {hourly: 24, daily: 7, weekly: 4}, sweepOrphans: {olderThan: 48h, enabled: false}}\n" +
			"delete: {requires: [no-writer, owner-ack], quiet: 30m, undoWindow: 7d, approvals: {count: 2, groups: [sre]}, final: {archiveTo: eu-west-1, proof: verified}}\n" +
			"seed: {sources: nearest, maxBytesPerSecond: 50MiB, concurrency: 8, verify: full}\n" +
			"windows:\n  - {allow: [trim, prune], cron: \"0 1-5 * * 1-5\", tz: Europe/Berlin}\n  - {deny: [all], from: \"2026-12-20\", to: \"2027-01-02\", reason: freeze}\n" +
			"limits: {perHour: {slates: 5, bytesPercent: 2}, breaker: {ackTTL: 15m}}\n": true,
		head: true,
		hold + "select: {names: [orders]}\nscope: [trim, delete]\nfrom: {position: 7}\nuntil: released\nlegal: true\nenforce: checkpoint\n": true,
		head + "trim: {require: {al: true}}\n":                         false,
		head + "trim: {require: {all: true}, safetyGap: {age: ten}}\n": false,
		head + "select: {kinds: [snapshot]}\n":                         false,
		hold + "scope: [trim]\n":                                       false,
		"kind: Policy\nmetadata: {name: a}\n":                          false,
		strings.Replace(head, "name: a", "name: a b", 1):               false,
	} {
		_, perr := ParseDocuments("a.yaml", []byte(text))
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(j, &v); err != nil {
			t.Fatal(err)
		}
		serr := schema.VisitJSON(v, openapi3.EnableJSONSchema2020())
		if (serr == nil) != ok || (perr == nil) != ok {
			t.Errorf("%s\nschema: %v\nparser: %v", text, serr, perr)
		}
	}
}

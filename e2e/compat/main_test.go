package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheTableSaysWhatTheTestsSaid(t *testing.T) {
	events := `not JSON
{"Action":"run","Test":"TestAdmin_ACopyOfTheWAL"}
{"Action":"run","Test":"TestAdmin_ACopyOfTheWAL/0.12.1"}
{"Action":"pass","Test":"TestAdmin_ACopyOfTheWAL/0.12.1"}
{"Action":"pass","Test":"TestAdmin_ACopyOfTheWAL/0.12.1/deeper_0.13.1"}
{"Action":"pass","Test":"TestFindings_LostTo0121/0.13.1_damaged_by_open"}
{"Action":"pass","Test":"TestFindings_LostTo0121/0.13.1_damaged_by_read"}
{"Action":"pass","Test":"TestFindings_LostTo0121/marked_by_0.14.1,_lost_to_0.16.0"}
{"Action":"pass","Test":"TestElsewhere/no_release"}
`
	file := filepath.Join(t.TempDir(), "doc.md")
	doc := "before\n" + string(marks[0]) + "old\n" + string(marks[1]) + "after\n"
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(strings.NewReader(events), &out, file); err != nil {
		t.Fatal(err)
	}
	want := `| case | 0.12.1 | 0.13.1 | 0.14.1 | 0.15.0 | 0.16.0 | 0.17.0 |
|---|---|---|---|---|---|---|
| Admin: a copy of the WAL | ok | – | – | – | – | – |
| Findings: lost to 0.12.1 | – | ok ×2 | ok | – | ok | – |
`
	if out.String() != want {
		t.Errorf("got\n%s\nexpected\n%s", out.String(), want)
	}
	now, err := os.ReadFile(file)
	if err != nil || string(now) != "before\n"+string(marks[0])+want+string(marks[1])+"after\n" {
		t.Errorf("%s %v", now, err)
	}
	failed := events + `{"Action":"fail","Test":"TestAdmin_ACopyOfTheWAL/0.13.1"}` + "\n"
	if err := run(strings.NewReader(failed), &out, ""); err == nil || !strings.Contains(out.String(), "**fails**") {
		t.Errorf("a failure is told: %v %s", err, out.String())
	}
}

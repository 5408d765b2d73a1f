package state_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Who explains what does not exist is told so, and what they may have meant; who
// explains what is several databases is told to say which.
func TestWhatCannotBeExplainedIsSaidKindly(t *testing.T) {
	s := begin(t, state.Config{}, nil)
	var facts []catalog.Fact
	rev := revOf(1)
	for i, name := range []string{"archive/0", "archive/1", "archive/10", "archives-old/0", "orders", "payments", "Ünicode"} {
		facts = append(facts, catalog.Fact{Kind: catalog.FactPlacement, Key: fmt.Sprint(i), Revision: rev, Sighting: &catalog.Sighting{Slate: name, Root: fmt.Sprint(i), Seen: catalog.SeenLive, Lineage: "X"}})
	}
	facts = append(facts, catalog.Fact{Kind: catalog.FactPlacement, Key: "other", Revision: rev, Sighting: &catalog.Sighting{Slate: "orders", Root: "other", Seen: catalog.SeenLive, Lineage: "Y"}})
	s.Step(state.Snapshot{Session: 1, Facts: facts, Upto: rev}, dawn)
	v := s.View()
	for _, c := range []struct{ name, region, want string }{
		{"archive", "", "nothing goes by the name archive; do you mean archive/0 or archive/1 or archive/10?"},
		{"archive/00", "", "nothing goes by the name archive/00; do you mean archive/0 or archive/10 or archive/1?"},
		{"paymets", "", "nothing goes by the name paymets; do you mean payments?"},
		{"Payments", "", "nothing goes by the name Payments; do you mean payments?"},
		{"zzzzzzzzzz", "", "nothing goes by the name zzzzzzzzzz; see quarry get slates"},
		{"", "", "nothing goes by the name ; see quarry get slates"},
		{"\xff\x00", "", ""},
		{strings.Repeat("a", 100_000), "", ""},
		{"payments", "us", "payments is not in region us; it is in eu"},
		{"orders", "", "orders is 2 databases, whose positions cannot be compared: in eu and in eu; say which with a region of it"},
	} {
		_, err := state.ExplainTrim(v, c.name, c.region, dawn)
		if err == nil || c.want != "" && err.Error() != c.want {
			t.Errorf("%.40q: %v\nwant %s", c.name, err, c.want)
		}
		if several := c.name == "orders"; errors.Is(err, fs.ErrNotExist) == several || errors.Is(err, state.ErrLineages) != several {
			t.Errorf("%.40q: %v is of the wrong kind", c.name, err)
		}
	}
}

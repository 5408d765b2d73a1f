package regions_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/regions"
)

func TestParseGivesOneActiveRegionPerName(t *testing.T) {
	s, err := regions.Parse([]string{"us", " eu ", ""})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Names(), ","); got != "eu,us" {
		t.Errorf("names %s, want eu,us", got)
	}
	if s.Get("us") == nil || s.Get("ap") != nil {
		t.Error("Get finds us and not ap")
	}
	again, err := regions.Decode(s.Encode())
	if err != nil || !again.Same(s) || again.Number != 1 {
		t.Errorf("a set reads back as itself: %v, %v", again, err)
	}
	c := s.Clone()
	c.Get("eu").BucketID = "b"
	if s.Get("eu").BucketID != "" {
		t.Error("a clone shares its regions")
	}
}

func TestRefusalsNameWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ names, want string }{
		{"", "no region"},
		{"eu west", `region "eu west"`},
		{"eu,eu", "named twice"},
		{"-a", `region "-a"`},
		{"a/b", `region "a/b"`},
		{strings.Repeat("x", 64), "1 to 63"},
	} {
		_, err := regions.Parse(strings.Split(c.names, ","))
		if !errors.Is(err, regions.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want it to say %q", c.names, err, c.want)
		}
	}
	for _, c := range []struct{ doc, want string }{
		{`{"format":2,"number":1,"regions":[{"name":"a","membership":"active"}]}`, "format 2"},
		{`{"format":1,"number":1,"regions":[{"name":"a","membership":"gone"}]}`, `membership "gone"`},
		{`{"format":1,"number":1,"regions":[{"name":"a","membership":"active","must":true}]}`, "must"},
		{`{"format":1,"number":1,"regions":[{"name":"b","membership":"active"},{"name":"a","membership":"active"}]}`, "order"},
		{`{"format":1,"number":0,"regions":[]}`, "number 0"},
		{`{}{}`, "follows"},
		{`{"format":1,`, "region set"},
	} {
		_, err := regions.Decode([]byte(c.doc))
		if !errors.Is(err, regions.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", c.doc, err, c.want)
		}
	}
}

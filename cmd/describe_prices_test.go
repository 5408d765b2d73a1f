package cmd

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// An hour of an agent over ten thousand slates: by class, and in money by the
// list and by a company's own prices.
func TestWhatARegionAsksIsShownInMoney(t *testing.T) {
	r := &catalog.Region{RequestsPerHour: map[string]float64{"get": 200_000, "head": 5_000, "list": 1_000, "put": 1_000, "delete": 1_000}, RequestBudget: 416_000}
	list, err := priced(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := list.of(r)
	// 205,000 reads at 0.0004 and 2,000 writes at 0.005 a thousand.
	if math.Abs(c.Hour-0.092) > 1e-9 || math.Abs(c.Month-66.24) > 1e-6 || c.AtMost == nil || math.Abs(*c.AtMost-132.48) > 1e-6 {
		t.Errorf("%+v", c)
	}
	var out strings.Builder
	c.print(func(k, format string, args ...any) { fmt.Fprintf(&out, "%s|%s\n", k, fmt.Sprintf(format, args...)) })
	want := `  delete|1000 at $0 a thousand: $0 an hour
  get|200000 at $0.0004 a thousand: $0.08 an hour
  head|5000 at $0.0004 a thousand: $0.002 an hour
  list|1000 at $0.005 a thousand: $0.005 an hour
  put|1000 at $0.005 a thousand: $0.005 an hour
cost|$0.09 an hour, $66.24 a month of 30 days; the whole budget would be $132.48 a month
`
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
	own, err := priced(prices{"get": 0})
	if err != nil || math.Abs(own.of(r).Hour-0.012) > 1e-9 {
		t.Errorf("%+v (%v)", own.of(r), err)
	}
	if c := list.of(&catalog.Region{RequestsPerHour: map[string]float64{"copy": 7}}); c.Unpriced != 7 || c.Hour != 0 {
		t.Errorf("%+v", c)
	}
	for _, bad := range []prices{{"gets": 1}, {"get": -1}, {"get": math.NaN()}} {
		if _, err := priced(bad); err == nil || !strings.Contains(err.Error(), "prices: ") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

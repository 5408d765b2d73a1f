package cmd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// prices are what a thousand requests of each class cost, in dollars. The
// classes are those an agent reports: get, head, list, put, delete.
type prices map[string]float64

// listPrices are Amazon's for standard storage; other clouds' differ, and what a
// company pays is its own to know: `prices:` in the CLI's configuration.
var listPrices = prices{"get": 0.0004, "head": 0.0004, "list": 0.005, "put": 0.005, "delete": 0}

// monthHours is a month of 30 days.
const monthHours = 30 * 24

// priced gives the table that holds: the list prices, with what the
// configuration says instead.
func priced(own prices) (prices, error) {
	all := maps.Clone(listPrices)
	for class, dollars := range own {
		if _, known := listPrices[class]; !known {
			return nil, usagef("prices: %q is no class of requests; there are %s", class, strings.Join(slices.Sorted(maps.Keys(listPrices)), ", "))
		}
		if !(dollars >= 0 && dollars < 1e6) {
			return nil, usagef("prices: %s: %v: dollars for a thousand requests, for example %v", class, dollars, listPrices[class])
		}
		all[class] = dollars
	}
	return all, nil
}

// cost is what a region's requests of the last hour cost.
type cost struct {
	Classes []classCost `json:"classes"`
	Hour    float64     `json:"dollars_per_hour"`
	Month   float64     `json:"dollars_per_month"` // 30 days like this hour
	// AtMost is a month at the whole budget, if all of it were of the classes
	// in which it is spent now; nil when there is no budget or nothing was asked.
	AtMost *float64 `json:"dollars_per_month_at_budget,omitempty"`
	// Unpriced are requests of classes that have no price.
	Unpriced float64 `json:"unpriced_requests_per_hour,omitempty"`
}

type classCost struct {
	Class       string  `json:"class"`
	Requests    float64 `json:"requests_per_hour"`
	PerThousand float64 `json:"dollars_per_thousand"`
	Hour        float64 `json:"dollars_per_hour"`
}

func (p prices) of(r *catalog.Region) cost {
	c := cost{Classes: []classCost{}}
	var total float64
	for _, class := range sortedKeys(r.RequestsPerHour) {
		n := r.RequestsPerHour[class]
		price, known := p[class]
		if !known {
			c.Unpriced += n // a newer agent's
			continue
		}
		x := classCost{class, n, price, n / 1000 * price}
		c.Classes = append(c.Classes, x)
		c.Hour += x.Hour
		total += n
	}
	c.Month = c.Hour * monthHours
	if r.RequestBudget > 0 && total > 0 {
		most := c.Month * r.RequestBudget / total
		c.AtMost = &most
	}
	return c
}

func (c cost) print(line func(k, format string, args ...any)) {
	for _, x := range c.Classes {
		line("  "+x.Class, "%.0f at $%g a thousand: %s an hour", x.Requests, x.PerThousand, dollars(x.Hour))
	}
	if c.Unpriced > 0 {
		line("  other", "%.0f, of no known price", c.Unpriced)
	}
	if len(c.Classes) == 0 {
		return
	}
	most := ""
	if c.AtMost != nil {
		most = fmt.Sprintf("; the whole budget would be %s a month", dollars(*c.AtMost))
	}
	line("cost", "%s an hour, %s a month of 30 days%s", dollars(c.Hour), dollars(c.Month), most)
}

// dollars is an amount with the digits that matter.
func dollars(v float64) string {
	switch {
	case v == 0:
		return "$0"
	case v < 0.0001:
		return "under $0.0001"
	case v < 0.01:
		return fmt.Sprintf("$%.2g", v)
	case v < 1000:
		return fmt.Sprintf("$%.2f", v)
	}
	return fmt.Sprintf("$%.0f", v)
}

package cmd

import (
	"strconv"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// place is a placement as the catalog slate shows it, with what owners declared.
type place struct {
	Slate          string               `json:"slate"`
	Root           string               `json:"root"`
	Kind           catalog.Kind         `json:"kind"`
	State          catalog.Seen         `json:"state"` // as the holder of the duty last saw it
	Reason         string               `json:"reason,omitempty"`
	Registered     bool                 `json:"registered"`
	Owner          string               `json:"owner"`
	Incarnation    string               `json:"incarnation"`
	ManifestID     *uint64              `json:"manifest_id"`
	WriterEpoch    *uint64              `json:"writer_epoch"`
	Position       *uint64              `json:"position"`
	PositionDomain string               `json:"position_domain"`
	Readers        []catalog.ReaderRow  `json:"readers"`
	Holds          []catalog.Checkpoint `json:"holds"`
	Revision       uint64               `json:"revision"` // of the row
}

// placesIn joins the rows of placements with those of their readers and holds
// and with the registration that stands for their root. Rows that cannot be
// understood are left out: dump shows them.
func placesIn(rows []catalog.Row, standing map[string]catalog.Registration) []place {
	places := []place{}
	at := map[string]int{} // by root
	named := map[string]int{}
	for _, r := range rows { // in the order of keys: placements come before readers, but not before holds
		v, err := catalog.ReadRow(r)
		p, ok := v.(*catalog.PlacementRow)
		if err != nil || !ok {
			continue
		}
		reg, registered := standing[p.Root]
		at[p.Root] = len(places)
		if _, beside, _, _ := catalog.Branch(r.Path); !beside {
			named[p.Slate] = len(places)
		}
		places = append(places, place{
			Slate: p.Slate, Root: p.Root, Kind: p.Kind, State: p.Seen, Reason: p.Reason, Registered: registered, Owner: reg.Owner,
			Incarnation: p.Incarnation, ManifestID: p.ManifestID, WriterEpoch: p.WriterEpoch, Position: p.Position,
			PositionDomain: p.PositionDomain, Readers: []catalog.ReaderRow{}, Holds: []catalog.Checkpoint{}, Revision: r.Revision,
		})
	}
	for _, r := range rows {
		v, err := catalog.ReadRow(r)
		if err != nil {
			continue
		}
		switch x := v.(type) {
		case *catalog.ReaderRow:
			i, ok := at[x.Root]
			if x.Lease != nil {
				i, ok = named[x.Slate]
			}
			if ok {
				places[i].Readers = append(places[i].Readers, *x)
			}
		case *catalog.HoldRow:
			if i, ok := at[x.Root]; ok {
				places[i].Holds = append(places[i].Holds, *x.Checkpoint)
			}
		}
	}
	return places
}

func (a *app) printPlaces(places []place) error {
	t := newTable(a.out, "SLATE", "ROOT", "KIND", "STATE", "OWNER", "EPOCH", "POSITION", "READERS", "HOLDS", "WHY")
	for _, p := range places {
		t.row(p.Slate, p.Root, string(p.Kind), string(p.State), p.Owner, num(p.WriterEpoch), strings.TrimSpace(num(p.Position)+" "+p.PositionDomain),
			strconv.Itoa(len(p.Readers)), strconv.Itoa(len(p.Holds)), p.Reason)
	}
	return t.flush()
}

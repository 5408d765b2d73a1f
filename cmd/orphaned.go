package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// orphanedHold is a checkpoint of Quarry's that nobody claims any more.
type orphanedHold struct {
	Slate      string `json:"slate"`
	Region     string `json:"region"`
	Root       string `json:"root"`
	Checkpoint string `json:"checkpoint"`
	Name       string `json:"name"`
	Why        string `json:"why"`
}

// listOrphaned prints the checkpoints of Quarry's that keep history for nobody:
// made for a hold that was released, or for trimming that no policy speaks of.
func (a *app) listOrphaned(ctx context.Context, cl *apiclient.Client, r resource, f getFlags) error {
	if r.name != "holds" {
		return usagef("--orphaned is about holds: quarry get holds --orphaned")
	}
	if f.watch || f.filter != "" || f.sort != "" || f.fields != "" || f.named != "" {
		return usagef("--orphaned lists all of them, and goes with no name, --filter, --sort-by, --fields or --watch")
	}
	l := cl.List(ctx, "placements", apiclient.Query{Filter: `checkpoints.name = "` + catalog.HoldName + `*"`, Fields: "slate,region,root,checkpoints"})
	placed, err := apiclient.All[catalog.Placement](l)
	if err != nil {
		return a.hubError(err)
	}
	found := []orphanedHold{}
	for _, p := range placed {
		for _, c := range p.Checkpoints {
			rest, ours := strings.CutPrefix(c.Name, catalog.HoldName)
			if !ours {
				continue
			}
			purpose, _, _ := strings.Cut(rest, ":")
			why, err := unclaimed(ctx, cl, purpose, p.Slate, p.Region)
			if err != nil {
				return a.hubError(err)
			}
			if why != "" {
				found = append(found, orphanedHold{p.Slate, p.Region, p.Root, c.ID, c.Name, why})
			}
		}
	}
	items := []json.RawMessage{}
	for _, o := range found {
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		items = append(items, b)
	}
	return a.printObject(listJSON{Items: items, AsOf: l.AsOf, Unreachable: orEmpty(l.Unreachable)}, func() error {
		if len(found) == 0 {
			fmt.Fprintln(a.err, "No orphaned holds: every checkpoint of Quarry's is claimed by a hold or a policy.")
			a.printStale(l.Freshness)
			return nil
		}
		var head []string
		if !f.noHeaders {
			head = []string{"SLATE", "REGION", "CHECKPOINT", "NAME", "WHY"}
		}
		t := newTable(a.out, head...)
		for _, o := range found {
			t.row(o.Slate, o.Region, o.Checkpoint, o.Name, o.Why)
		}
		if err := t.flush(); err != nil {
			return err
		}
		a.printStale(l.Freshness)
		return nil
	})
}

// unclaimed is why nobody claims a checkpoint of a slate; empty: somebody does.
func unclaimed(ctx context.Context, cl *apiclient.Client, purpose, slate, region string) (string, error) {
	if purpose == catalog.PurposeTrim || purpose == catalog.PurposeRestorePoint {
		var e state.Explanation
		if err := cl.Explain(ctx, "trim", slate, region, &e); err != nil || e.Policy.Name != "" {
			return "", err
		}
		return "no policy speaks of trimming " + slate, nil
	}
	var h catalog.Hold
	_, err := cl.Get(ctx, "holds", purpose, "name", &h)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("there is no hold %q any more", purpose), nil
	}
	return "", err
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// check is one line of doctor's answer.
type check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Needed is false for a right that Quarry can do without.
	Needed bool   `json:"needed"`
	What   string `json:"what"`
	Fix    string `json:"fix,omitempty"`
	denied bool
}

func newDoctor(a *app) *cobra.Command {
	var url string
	var readOnly bool
	var verbs, prefixes []string
	c := &cobra.Command{
		Use:   "doctor --bucket URL [--allow VERBS]",
		Short: "Check a bucket: rights, create-if-absent, clock",
		Long: `Tries on the bucket itself what an agent needs: list, read, create-if-absent (on an object
it wrote and on one it listed), delete of its own probe, and how far the store's clock is
from this machine's. Its probes lie below .quarry/ and are removed. With --read-only
nothing is written.

With --allow it tries what these verbs of an agent need besides, below a folder of its own
in each prefix of --discover: never in a slate. What could not be tried it says.`,
		Example: `  quarry doctor --bucket s3://eu-slates
  quarry doctor --bucket s3://eu-slates --allow hold,release,prune --discover dbs,archive`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			allow, err := verbsOf(verbs)
			if err != nil {
				return err
			}
			return withBucket(c.Context(), url, func(b *bucket.Bucket) error {
				checks := examine(c.Context(), b, readOnly)
				checks = append(checks, examineVerbs(c.Context(), b, allow, prefixes, readOnly)...)
				if err := c.Context().Err(); err != nil {
					return err
				}
				bad, code := 0, exitRefused
				for _, k := range checks {
					if !k.OK && k.Needed {
						bad++
						if k.denied {
							code = exitDenied
						}
					}
				}
				if err := a.printObject(map[string]any{"bucket": b.URL(), "items": checks, "ok": bad == 0}, func() error { return a.printChecks(checks) }); err != nil {
					return err
				}
				if bad > 0 {
					return withCode(code, fmt.Errorf("%d of %d checks of %s did not pass", bad, len(checks), b.URL()))
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&url, "bucket", "", "URL of the region's bucket")
	c.Flags().BoolVar(&readOnly, "read-only", false, "write nothing")
	c.Flags().StringSliceVar(&verbs, "allow", nil, "also try the rights that these verbs need, such as hold,release,prune")
	c.Flags().StringSliceVar(&prefixes, "discover", []string{""}, "prefixes where the slates are, as of the agent; empty: the whole bucket")
	return c
}

func (a *app) printChecks(checks []check) error {
	for _, k := range checks {
		mark := a.colour("32", "ok  ")
		if !k.OK {
			mark = a.colour("31", "FAIL")
			if !k.Needed {
				mark = a.colour("33", "warn")
			}
		}
		fmt.Fprintf(a.out, "%s  %-22s %s\n", mark, k.Name, clean(k.What))
		if k.Fix != "" {
			fmt.Fprintf(a.out, "      %-22s %s\n", "", k.Fix)
		}
	}
	return nil
}

// examine runs the checks in an order in which each builds on the last.
func examine(ctx context.Context, b *bucket.Bucket, readOnly bool) []check {
	var out []check
	add := func(name string, needed bool, err error, good, fix string) bool {
		k := check{Name: name, OK: err == nil, Needed: needed, What: good}
		if err != nil {
			k.What, k.Fix, k.denied = err.Error(), fix, errors.Is(err, fs.ErrPermission)
		}
		out = append(out, k)
		return err == nil
	}

	_, _, err := b.List(ctx, "")
	if !add("list", true, err, "the bucket can be listed", "grant list on the bucket (S3: s3:ListBucket; GCS: storage.objects.list; Azure: Storage Blob Data Reader)") {
		return out
	}
	body, err := b.Get(ctx, catalog.RegionKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		add("read", true, nil, "objects can be read; no region.json yet, no agent has claimed this bucket", "")
	case err != nil:
		add("read", true, err, "", "grant get on the objects (S3: s3:GetObject; GCS: storage.objects.get; Azure: Storage Blob Data Reader)")
		return out
	default:
		d, derr := catalog.DecodeRegion(body)
		add("region.json", true, derr, fmt.Sprintf("this is the bucket of region %q (bucket id %s)", d.Region, d.Bucket), "another program wrote it; see docs/bucket-contract.md")
	}
	if readOnly {
		return out
	}

	settled := anyObjectBefore(ctx, b, time.Now().Add(-time.Minute))
	err = b.CheckPutNew(ctx, catalog.Prefix)
	if errors.Is(err, fs.ErrPermission) {
		add("write .quarry/", false, err, "", "an agent works without it, but cannot keep incarnations nor claim the bucket; grant put below .quarry/")
		return out
	}
	good := "honoured, on an object written here and by eight writers at once; nothing older lies below .quarry/ to try it on"
	if settled {
		good = "honoured, on an object written here, by eight writers at once, and on what lay below .quarry/ before"
	}
	if !add("create-if-absent", true, err, good, "use a store (or a gateway setting) that honours If-None-Match: *; without it two agents could both win") {
		return out
	}

	key := catalog.Prefix + "doctor-" + ulid.Make().String()
	before := time.Now()
	if err := b.PutNew(ctx, key, []byte("quarry doctor")); err != nil {
		add("put", true, err, "", "grant put below .quarry/")
		return out
	}
	_, modified, err := b.Stat(ctx, key)
	after := time.Now()
	switch skew := clockSkew(before, after, modified); {
	case err != nil:
		add("clock", true, err, "", "grant get on the objects")
	case skew > time.Minute || skew < -time.Minute:
		add("clock", false, fmt.Errorf("the store's clock is %s away from this machine's", skew.Round(time.Second)), "", "set this machine's clock (NTP). Quarry decides nothing by it, but ages shown would be wrong")
	default:
		add("clock", true, nil, fmt.Sprintf("the store's clock is within %s of this machine's", max(skew.Abs(), time.Second).Round(time.Second)), "")
	}
	add("replace-if-unchanged", false, replaces(ctx, b, key), "honoured: what has changed is not replaced", "this agent can do all but prune snapshot repositories; see docs/permissions.md")
	add("delete", false, b.Delete(ctx, key), "the probe could be deleted", "grant delete below .quarry/: what is settled stays in the journal without it, and nothing can be pruned; see docs/permissions.md")
	return out
}

// replaces finds out whether the store replaces an object only if it is what was
// read: a gateway may ignore the condition.
func replaces(ctx context.Context, b *bucket.Bucket, key string) error {
	_, stale, err := b.GetVersion(ctx, key)
	if err != nil {
		return err
	}
	if err := b.Replace(ctx, key, []byte("quarry doctor, replaced"), stale); err != nil {
		return err
	}
	switch err := b.Replace(ctx, key, []byte("quarry doctor, replaced again"), stale); {
	case errors.Is(err, bucket.ErrChanged):
		return nil
	case err != nil:
		return err
	}
	return errors.New("the store replaced an object that had changed: it ignores the condition")
}

// anyObjectBefore tells whether CheckPutNew finds something that it did not
// write itself.
func anyObjectBefore(ctx context.Context, b *bucket.Bucket, t time.Time) bool {
	found := errors.New("found")
	err := b.Walk(ctx, catalog.Prefix, "", func(key string, _ int64, modified time.Time) error {
		below := strings.TrimPrefix(key, catalog.Prefix)
		if modified.Before(t) && !strings.HasPrefix(below, "inbox/") && !strings.HasPrefix(below, "leases/") {
			return found
		}
		return nil
	})
	return errors.Is(err, found)
}

// clockSkew is how far modified lies outside of [before, after]. Stores keep
// whole seconds, so one second is no skew.
func clockSkew(before, after, modified time.Time) time.Duration {
	switch {
	case modified.Before(before.Add(-time.Second)):
		return modified.Sub(before)
	case modified.After(after.Add(time.Second)):
		return modified.Sub(after)
	}
	return 0
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/regions"
)

func newSlateDBCheckpoints(a *app, f *slatedbFlags) *cobra.Command {
	list := func(c *cobra.Command, args []string) error {
		return f.with(c.Context(), args[0], func(s *bucket.Bucket, root string, _ slatedb.Store) error {
			head, err := slatedb.Latest(c.Context(), s, root)
			if err != nil {
				return err
			}
			cps := head.Checkpoints(time.Now())
			return a.printObject(map[string]any{"items": cps}, func() error {
				if len(cps) == 0 {
					_, err := fmt.Fprintf(a.out, "Manifest %d has no checkpoints: nobody holds history or reads through one.\n", head.ID)
					return err
				}
				return a.printCheckpoints(cps)
			})
		})
	}
	c := &cobra.Command{
		Use: "checkpoints ROOT", Short: "List, make, prolong and remove checkpoints", Args: cobra.ExactArgs(1), RunE: list,
		Long: `A checkpoint holds a state of a database: SlateDB's own collector keeps everything it names
until it expires or is deleted, even if Quarry is gone. Making one changes nothing for those
who write and read.`,
	}
	c.AddCommand(
		&cobra.Command{Use: "list ROOT", Short: "List the checkpoints of the newest manifest", Args: cobra.ExactArgs(1), RunE: list},
		newCheckpointCreate(a, f), newCheckpointRefresh(a, f), newCheckpointDelete(a, f),
	)
	return c
}

func (a *app) printCheckpoints(cps []slatedb.CheckpointRow) error {
	t := newTable(a.out, "CHECKPOINT", "NAME", "MANIFEST", "LOOKS LIKE", "CREATED", "EXPIRES")
	for _, c := range cps {
		expires := "never"
		if !c.Expire.IsZero() {
			expires = c.Expire.UTC().Format(time.RFC3339)
			if c.Expired {
				expires += " (past)"
			}
		}
		t.row(c.ID.String(), c.Name, fmt.Sprint(c.ManifestID), string(c.Kind), c.Create.UTC().Format(time.RFC3339), expires)
	}
	return t.flush()
}

// checkpointJSON is what create and refresh print.
type checkpointJSON struct {
	ID         uuid.UUID  `json:"id"`
	ManifestID uint64     `json:"manifest_id"` // that it pins
	Expires    *time.Time `json:"expires"`
}

func (a *app) printCheckpoint(j checkpointJSON) error {
	return a.printObject(j, func() error {
		if a.output == "name" {
			_, err := fmt.Fprintln(a.out, j.ID)
			return err
		}
		expires := "never"
		if j.Expires != nil {
			expires = j.Expires.UTC().Format(time.RFC3339)
		}
		_, err := fmt.Fprintf(a.out, "id           %s\nmanifest_id  %d\nexpires      %s\n", j.ID, j.ManifestID, expires)
		return err
	})
}

func expiresAt(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

func newCheckpointCreate(a *app, f *slatedbFlags) *cobra.Command {
	var o slatedb.CheckpointOptions
	var source string
	c := &cobra.Command{
		Use: "create ROOT --name N", Short: "Hold the state of this moment, the rows that are only in the WAL included", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if o.Name == "" {
				return usagef("--name is needed: storage has no other place to say who holds this, and why")
			}
			if o.Lifetime < 0 {
				return usagef("--lifetime %v: a time such as 24h, or none for a checkpoint that never expires", o.Lifetime)
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				if source != "" {
					head, err := slatedb.Latest(c.Context(), db.Store, db.Root)
					if err != nil {
						return err
					}
					from, err := slatedb.Checkpoint(head.Manifest, source)
					if err != nil {
						return err
					}
					o.Source = from.ID
				}
				cp, _, err := db.CreateCheckpoint(c.Context(), o)
				if err != nil {
					return err
				}
				return a.printCheckpoint(checkpointJSON{cp.ID, cp.ManifestID, expiresAt(cp.Expire)})
			})
		},
	}
	c.Flags().StringVar(&o.Name, "name", "", "who holds it, and why")
	c.Flags().DurationVar(&o.Lifetime, "lifetime", 0, "how long it lives, such as 24h; 0: until it is deleted")
	c.Flags().StringVar(&source, "source", "", "id or name of a checkpoint whose state to hold")
	return c
}

func newCheckpointRefresh(a *app, f *slatedbFlags) *cobra.Command {
	var lifetime time.Duration
	c := &cobra.Command{
		Use: "refresh ROOT ID --lifetime 24h", Short: "Let a checkpoint live for so long from now on; never shorter than before", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			id, err := checkpointID(args[1])
			if err != nil {
				return err
			}
			if !c.Flags().Changed("lifetime") || lifetime < 0 {
				return usagef("--lifetime is needed: a time such as 24h, or 0 for a checkpoint that never expires")
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				cp, _, err := db.RefreshCheckpoint(c.Context(), id, lifetime)
				if err != nil {
					return err
				}
				return a.printCheckpoint(checkpointJSON{cp.ID, cp.ManifestID, expiresAt(cp.Expire)})
			})
		},
	}
	c.Flags().DurationVar(&lifetime, "lifetime", 0, "how long it lives from now on; 0: until it is deleted")
	return c
}

func newCheckpointDelete(a *app, f *slatedbFlags) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "delete ROOT ID", Short: "Let go what checkpoints hold; a collector takes it later", Args: cobra.RangeArgs(1, 2),
		Long: `Lets go what a checkpoint holds, by its id, or what all those hold whose names match. Without a
hub, for good, this lets go all that Quarry holds in a database: --name 'quarry:*'.`,
		Example: `  quarry slatedb checkpoints delete dbs/orders 7b9c7a8e-0a3f-4c37-9f0e-2a6d4a1c5e11 --bucket s3://eu-slates
  quarry slatedb checkpoints delete dbs/orders --name 'quarry:*' --bucket s3://eu-slates`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if (len(args) == 2) == (name != "") {
				return usagef("one of the two: the ID of a checkpoint, or --name with a name or a pattern such as 'quarry:*'")
			}
			if name != "" {
				return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error { return a.deleteNamed(c.Context(), db, name) })
			}
			id, err := checkpointID(args[1])
			if err != nil {
				return err
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				manifest, err := db.DeleteCheckpoint(c.Context(), id)
				if err != nil {
					return err
				}
				return a.printObject(map[string]any{"id": id, "manifest_id": manifest}, func() error {
					_, err := fmt.Fprintf(a.out, "deleted: checkpoint %s, with manifest %d\n", id, manifest)
					return err
				})
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "all checkpoints of that name, or whose names match a pattern")
	return c
}

// deleteNamed removes all checkpoints whose names match, one manifest each.
// Those without a name are others' readers: no pattern matches them.
func (a *app) deleteNamed(ctx context.Context, db *slatedb.Admin, pattern string) error {
	all, err := db.Checkpoints(ctx)
	if err != nil {
		return err
	}
	type gone struct {
		ID         uuid.UUID `json:"id"`
		Name       string    `json:"name"`
		ManifestID uint64    `json:"manifest_id"`
	}
	done := []gone{}
	for _, c := range all {
		if !c.Named || !regions.Glob(pattern, c.Name) {
			continue
		}
		manifest, err := db.DeleteCheckpoint(ctx, c.ID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody was faster
		}
		if err != nil {
			return fmt.Errorf("%d checkpoints were deleted, then checkpoint %s %q: %w", len(done), c.ID, c.Name, err)
		}
		done = append(done, gone{c.ID, c.Name, manifest})
	}
	if len(done) == 0 {
		return fmt.Errorf("a checkpoint named %q in %s: %w", pattern, db.Root, fs.ErrNotExist)
	}
	return a.printObject(map[string]any{"items": done}, func() error {
		for _, d := range done {
			if _, err := fmt.Fprintf(a.out, "deleted: checkpoint %s %s, with manifest %d\n", d.ID, clean(d.Name), d.ManifestID); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkpointID(arg string) (uuid.UUID, error) {
	id, err := uuid.Parse(arg)
	if err != nil {
		return id, usagef("%q is not the id of a checkpoint: %w; see `quarry slatedb checkpoints list`", arg, err)
	}
	return id, nil
}

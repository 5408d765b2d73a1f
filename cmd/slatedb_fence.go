package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// consent tells what an expert's command will do and to whom, and asks.
type consent struct{ yes, dry bool }

func (k *consent) flags(c *cobra.Command) {
	c.Flags().BoolVar(&k.yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&k.dry, "dry-run", false, "only say what would happen, and to whom")
}

// given prints the warning and reports whether to go on.
func (k *consent) given(a *app, what, warning string) (bool, error) {
	fmt.Fprint(a.err, warning)
	if k.dry {
		fmt.Fprintln(a.err, "Nothing was done (--dry-run).")
		return false, nil
	}
	return true, a.confirm(k.yes, what)
}

// readers says who holds checkpoints, as far as storage tells.
func readers(h *slatedb.Head, now time.Time) string {
	n, named := 0, 0
	for _, c := range h.Checkpoints(now) {
		switch {
		case c.Expired:
		case c.Kind == slatedb.KindReader:
			n++
		case c.Kind == slatedb.KindNamed:
			named++
		}
	}
	return fmt.Sprintf("%s that look like a reader's, %d with a name; readers that follow without checkpoints cannot be seen", plural(n, "checkpoint"), named)
}

func newSlateDBFence(a *app, f *slatedbFlags) *cobra.Command {
	var k consent
	var name string
	c := &cobra.Command{
		Use: "fence ROOT --yes", Short: "For experts: stop whoever writes the database", Args: cobra.ExactArgs(1),
		Long: `Raises the writer's and the compactor's epoch and takes the next WAL id. The process that has
the database open for writing fails at its next write, whatever release it is; nothing that
it acknowledged is lost. Readers go on. The next one to open the database can write it, so
a process that is restarted comes back: this is not a lock. See pill.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				h, err := slatedb.Latest(c.Context(), db.Store, db.Root)
				if err != nil {
					return err
				}
				m := h.Manifest
				ok, err := k.given(a, "fence "+args[0], fmt.Sprintf(
					"This stops the writer of %s (epoch %d) at its next write and its compactor (epoch %d) within its poll interval.\nWhoever it serves gets errors until it opens the database again. Readers go on: %s.\n",
					args[0], m.WriterEpoch, m.CompactorEpoch, readers(h, time.Now())))
				if !ok || err != nil {
					return err
				}
				done, err := db.Fence(c.Context(), slatedb.FenceOptions{Checkpoint: name})
				if err != nil {
					return err
				}
				return a.printObject(done, func() error {
					_, err := fmt.Fprintf(a.out, "fenced: writer epoch %d, compactor epoch %d, manifest %d, WAL object %d\n", done.WriterEpoch, done.CompactorEpoch, done.ManifestID, done.WALID)
					if err == nil && done.Checkpoint != nil {
						_, err = fmt.Fprintf(a.out, "checkpoint %s holds every acknowledged row\n", done.Checkpoint)
					}
					return err
				})
			})
		},
	}
	k.flags(c)
	c.Flags().StringVar(&name, "checkpoint", "", "also make a checkpoint of this name, without expiry, that holds every acknowledged row")
	return c
}

func newSlateDBPill(a *app, f *slatedbFlags) *cobra.Command {
	var k consent
	var reason string
	c := &cobra.Command{
		Use: "pill ROOT --reason TEXT --yes", Short: "For experts: shut the database for everybody until unpill", Args: cobra.ExactArgs(1),
		Long: `Puts a manifest that no release can read. Writers and managed readers of every release end
when they next look at the manifest, and nobody can open the database until unpill, which
brings it back as it was. Nothing is removed. A writer that looks rarely goes on
acknowledging writes until it looks, and they are kept: fence first, to stop it at once.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if reason == "" {
				return usagef("--reason is needed: it is what people read when their process ends")
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				h, err := slatedb.Latest(c.Context(), db.Store, db.Root)
				if err != nil {
					return err
				}
				ok, err := k.given(a, "shut "+args[0], fmt.Sprintf(
					"This ends the writer of %s (epoch %d), its compactor and its managed readers, and refuses every open by anybody.\n%s.\n",
					args[0], h.Manifest.WriterEpoch, capital(readers(h, time.Now()))))
				if !ok || err != nil {
					return err
				}
				done, err := db.Pill(c.Context(), slatedb.PillOptions{Reason: reason, By: who()})
				if err != nil {
					return err
				}
				return a.printObject(done, func() error {
					_, err := fmt.Fprintf(a.out, "shut: manifest %d is the pill; `quarry slatedb unpill` opens it again\n", done.ID)
					return err
				})
			})
		},
	}
	k.flags(c)
	c.Flags().StringVar(&reason, "reason", "", "what people read when their process ends")
	return c
}

func capital(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

func newSlateDBUnpill(a *app, f *slatedbFlags) *cobra.Command {
	var k consent
	c := &cobra.Command{
		Use: "unpill ROOT --yes", Short: "For experts: open a shut database again", Args: cobra.ExactArgs(1),
		Long: `Removes the pill. The database is as it was, with every acknowledged row; processes that met
the pill have ended and must be started again. Refused once objects have been removed.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				reason, err := pillOf(c.Context(), db)
				if err != nil {
					return err
				}
				ok, err := k.given(a, "open "+args[0]+" again", fmt.Sprintf("%s is shut: %s\nThis lets everybody open it again; a deletion that is under way elsewhere must have been called off.\n", args[0], clean(reason)))
				if !ok || err != nil {
					return err
				}
				h, err := db.Unpill(c.Context())
				if err != nil {
					return err
				}
				return a.printObject(map[string]any{"manifest_id": h.ID}, func() error {
					_, err := fmt.Fprintf(a.out, "open again: manifest %d is the newest\n", h.ID)
					return err
				})
			})
		},
	}
	k.flags(c)
	return c
}

func pillOf(ctx context.Context, db *slatedb.Admin) (string, error) {
	h, err := slatedb.Latest(ctx, db.Store, db.Root)
	if h != nil && h.Pill != nil {
		return h.Pill.Reason, nil
	}
	if err == nil {
		err = fmt.Errorf("manifest %d: %w", h.ID, slatedb.ErrNotPilled)
	}
	return "", err
}

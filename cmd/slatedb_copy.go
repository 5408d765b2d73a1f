package cmd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newSlateDBCopy(a *app, f *slatedbFlags) *cobra.Command {
	var to, toRoot, checkpoint string
	c := &cobra.Command{
		Use: "copy ROOT --to URL", Short: "Make an independent copy in any bucket, verified object by object", Args: cobra.ExactArgs(1),
		Long: `Copies every table that the manifest names (those that a clone borrows too) and the WAL
without holes, checks every block on its way, and creates manifest 1 last: before it there
is no database, and an interrupted copy can be repeated. The source is held by a checkpoint
meanwhile; its writer and readers go on. The place must hold no database.

The copy is a fork: from then on the same slate has two writers in two places. Where it came
from is recorded beside it, in the target bucket below .quarry/lineage/.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if to == "" {
				return usagef("--to URL is needed: the bucket to copy to, such as s3://us-slates")
			}
			ctx := c.Context()
			return f.admin(ctx, args[0], func(db *slatedb.Admin, b *bucket.Bucket) error {
				if !c.Flags().Changed("to-root") {
					toRoot = db.Root
				}
				target, err := openBucket(ctx, to)
				if err != nil {
					return fmt.Errorf("the target: %w", err)
				}
				defer target.Close()
				done := copyJSON{}
				o := slatedb.CopyOptions{To: target, ToRoot: strings.Trim(toRoot, "/"), Checkpoint: checkpoint}
				o.Commit = func(ctx context.Context, c slatedb.Copied) error {
					var err error
					done.Lineage, err = recordLineage(ctx, target, b, o.ToRoot, db.Root, c)
					return err
				}
				if show := a.progress("copied"); show != nil {
					o.Progress = func(n, total int, _, _ int64, _ string) { show(n, total) }
				}
				done.Copied, err = db.Copy(ctx, o)
				if err != nil {
					return err
				}
				done.From, done.SourceManifest = named(b, db.Root), done.Source.ID
				done.To, done.ToRoot = target.URL(), o.ToRoot
				rep, err := slatedb.Verify(ctx, target, o.ToRoot, slatedb.VerifyOptions{})
				if err != nil || !rep.OK() {
					return fmt.Errorf("the copy is made, and is not whole: %w %v", err, rep.Findings)
				}
				ahead := slatedb.ClockAhead(done.Head.Manifest, time.Now())
				return a.printObject(done, func() error {
					fmt.Fprintf(a.out, "copied: manifest %d of %s to %s, %d tables, %d WAL objects, %s, verified\n", done.SourceManifest, clean(done.From), clean(named(target, o.ToRoot)), done.Tables, done.WALObjects, byteSize(uint64(done.Bytes)))
					if done.Lineage == nil {
						fmt.Fprintln(a.out, "no lineage record: there is no bucket around the copy; give --to the bucket and --to-root the path in it")
					}
					if ahead > time.Second {
						fmt.Fprintf(a.out, "its newest row is %v ahead of this clock: a SlateDB writer waits so long, and fails for a minute or more\n", ahead.Round(time.Second))
					}
					return nil
				})
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "URL of the bucket to copy to")
	c.Flags().StringVar(&toRoot, "to-root", "", "path of the copy in that bucket (default: the same as ROOT)")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "id or name of a checkpoint: the state it pins")
	return c
}

type copyJSON struct {
	From           string  `json:"from"`
	SourceManifest uint64  `json:"source_manifest_id"`
	To             string  `json:"to"`
	ToRoot         string  `json:"to_root"`
	Lineage        *string `json:"lineage"` // key of the record
	slatedb.Copied
}

func named(b *bucket.Bucket, root string) string {
	return strings.TrimSuffix(b.URL(), "/") + "/" + root
}

// recordLineage writes the record and returns its key, nil when there is no
// bucket around the copy. It is durable before the copy is a database.
func recordLineage(ctx context.Context, target, source *bucket.Bucket, toRoot, root string, c slatedb.Copied) (*string, error) {
	if toRoot == "" {
		return nil, nil
	}
	sum := hex.EncodeToString(c.Head.SHA256[:])
	l := catalog.LineageRecord{Version: 1, Root: toRoot, ManifestSHA256: sum, At: time.Now().UTC().Truncate(time.Second), By: "quarry slatedb copy, " + who()}
	l.Source.Bucket, l.Source.Root = source.URL(), root
	l.Source.ManifestID, l.Source.ManifestSHA256 = c.Source.ID, hex.EncodeToString(c.Source.SHA256[:])
	l.Source.WALLastSeen = c.Source.Manifest.WALLastSeen
	if root != "" {
		var region catalog.RegionDescriptor
		if err := readJSON(ctx, source, catalog.Prefix+"region.json", &region); err != nil {
			return nil, err
		}
		l.Source.Region, l.Source.BucketID = region.Region, region.Bucket
		was, err := identityOf(ctx, source, root)
		if err != nil {
			return nil, err
		}
		l.Source.Incarnation = was.Incarnation
		if was.LineageEpoch == c.Source.Manifest.WriterEpoch {
			l.Source.Lineage = was.Lineage
		}
	}
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, err
	}
	key := catalog.LineageKey(toRoot, sum)
	if err := target.PutNew(ctx, key, append(text, '\n')); err != nil {
		return nil, fmt.Errorf("record where the copy comes from: %w", err)
	}
	return &key, nil
}

// readJSON reads an object of Quarry's own; one that is not there leaves v.
func readJSON(ctx context.Context, b *bucket.Bucket, key string, v any) error {
	raw, err := b.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// recorded is what an agent has recorded of a database's identity.
type recorded struct {
	Incarnation  string `json:"incarnation"` // empty: none has
	N            uint64 `json:"n"`
	Lineage      string `json:"lineage"` // that it inherits as long as its writer epoch is LineageEpoch
	LineageEpoch uint64 `json:"lineage_epoch"`
}

// identityOf returns the newest recorded identity of the database at root.
func identityOf(ctx context.Context, b *bucket.Bucket, root string) (recorded, error) {
	prefix := catalog.IncarnationsPrefix + url.PathEscape(root) + "/"
	var newest recorded
	err := b.Walk(ctx, prefix, "", func(key string, _ int64, _ time.Time) error {
		var r recorded
		if err := readJSON(ctx, b, key, &r); err != nil {
			return err
		}
		if r.N > newest.N {
			newest = r
		}
		return nil
	})
	return newest, err
}

func newSlateDBClone(a *app, f *slatedbFlags) *cobra.Command {
	var o slatedb.CloneOptions
	c := &cobra.Command{
		Use: "clone ROOT --bucket URL --to-root PATH", Short: "Make a database in the same bucket that borrows the tables of this one", Args: cobra.ExactArgs(1),
		Long: `A clone costs two manifests and the WAL tail, and goes its own way. The databases it borrows
from keep their tables for it, by a checkpoint without expiry in each; delete these when you
delete the clone. It has the rows that are only in the WAL, which SlateDB's own clone of a
live database lacks. Readers of SlateDB 0.14 and earlier cannot read clones. An interrupted
clone is finished by the same command.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			o.ToRoot = strings.Trim(o.ToRoot, "/")
			if f.bucket == "" || o.ToRoot == "" {
				return usagef("--bucket URL and --to-root PATH are needed: a clone lives in the same bucket, and finds its parent from the bucket's root; for another bucket see copy")
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				done, err := db.Clone(c.Context(), o)
				if err != nil {
					return err
				}
				return a.printObject(done, func() error {
					fmt.Fprintf(a.out, "cloned: %s borrows %d tables, %d WAL objects copied\n", clean(o.ToRoot), done.Tables, done.WALObjects)
					for path, pin := range done.Pins {
						fmt.Fprintf(a.out, "checkpoint %s in %s holds them\n", pin, clean(path))
					}
					return nil
				})
			})
		},
	}
	c.Flags().StringVar(&o.ToRoot, "to-root", "", "path of the clone in the bucket")
	c.Flags().StringVar(&o.Checkpoint, "checkpoint", "", "id or name of a checkpoint: the state it pins")
	return c
}

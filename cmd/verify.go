package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newSlateDBVerify(a *app, f *slatedbFlags) *cobra.Command {
	var checksums bool
	var inUse []string
	c := &cobra.Command{
		Use: "verify ROOT", Short: "Check every object the database and its checkpoints need; exit code 1 when one is bad", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			for _, release := range inUse {
				if err := slatedb.CheckRelease(release); err != nil {
					return usagef("--in-use: %w", err)
				}
			}
			ctx := c.Context()
			return f.with(ctx, args[0], func(s *bucket.Bucket, root string, wal slatedb.Store) error {
				opts := slatedb.VerifyOptions{Checksums: checksums, WALStore: wal, InUse: inUse}
				if show := a.progress("looked at"); show != nil {
					opts.Progress = func(done, total int, _ string) { show(done, total) }
				}
				rep, err := slatedb.Verify(ctx, s, root, opts)
				if err != nil {
					return err
				}
				if err := a.printObject(rep, func() error { return a.printReport(rep) }); err != nil {
					return err
				}
				if !rep.OK() {
					return withCode(exitError, fmt.Errorf("%s in %s", plural(len(rep.Findings), "finding"), args[0]))
				}
				return nil
			})
		},
	}
	c.Flags().StringSliceVar(&inUse, "in-use", nil, "SlateDB releases that open this database, such as 0.12.1: what they cannot open or would damage is a finding")
	c.Flags().BoolVar(&checksums, "checksums", false, "read every block: checksums, order of keys and sequence numbers")
	return c
}

func (a *app) printReport(r slatedb.Report) error {
	for _, f := range r.Findings {
		fmt.Fprintf(a.out, "%s  %s\n    %s\n", a.colour("31", string(f.Code)), clean(f.Object), clean(f.What))
		if f.Who != "" {
			fmt.Fprintf(a.out, "    it hurts %s\n", clean(f.Who))
		}
		if f.Cure != "" {
			fmt.Fprintf(a.out, "    cure: %s\n", clean(f.Cure))
		}
	}
	how := "present, footers read"
	if r.ChecksumsOK {
		how = fmt.Sprintf("present, every block read (%d rows)", r.Rows)
	}
	if r.OK() {
		_, err := fmt.Fprintf(a.out, "good: manifest %d, %d manifests, %d tables (%s), %d WAL objects: %s\n", r.ManifestID, r.Manifests, r.Tables, byteSize(uint64(r.TableBytes)), r.WALObjects, how)
		return err
	}
	if r.Unverified {
		fmt.Fprintln(a.out, "unverified: the WAL was not looked at, for nobody said where it is (--wal)")
	}
	_, err := fmt.Fprintf(a.out, "looked at manifest %d, %d manifests, %d tables, %d WAL objects\n", r.ManifestID, r.Manifests, r.Tables, r.WALObjects)
	return err
}

package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newSlateDBVerify(a *app, f *slatedbFlags) *cobra.Command {
	var checksums bool
	c := &cobra.Command{
		Use: "verify ROOT", Short: "Check every object the database and its checkpoints need; exit code 1 when one is bad", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			ctx := c.Context()
			return f.with(ctx, args[0], func(s *bucket.Bucket, root string, wal slatedb.Store) error {
				opts := slatedb.VerifyOptions{Checksums: checksums, WALStore: wal}
				if isTerminal(a.err) && a.output == "table" {
					opts.Progress = func(done, total int, key string) {
						fmt.Fprintf(a.err, "\r\x1b[K%d of %d objects", done, total)
						if done == total {
							fmt.Fprint(a.err, "\r\x1b[K")
						}
					}
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
	c.Flags().BoolVar(&checksums, "checksums", false, "read every block: checksums, order of keys and sequence numbers")
	return c
}

func (a *app) printReport(r slatedb.Report) error {
	for _, f := range r.Findings {
		fmt.Fprintf(a.out, "%s  %s\n    %s\n", a.colour("31", string(f.Code)), clean(f.Object), clean(f.What))
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
	_, err := fmt.Fprintf(a.out, "looked at manifest %d, %d manifests, %d tables, %d WAL objects\n", r.ManifestID, r.Manifests, r.Tables, r.WALObjects)
	return err
}

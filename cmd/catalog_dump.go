package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newCatalogDump(a *app) *cobra.Command {
	var url string
	c := &cobra.Command{
		Use: "dump --bucket URL", Short: "Print the rows of the catalog slate", Args: cobra.NoArgs,
		Long: `Prints every row of the catalog slate, as any SlateDB reader sees it: its key without the
two bytes 51 01, the revision of the batch that wrote it, and its JSON. What still lies in the
inbox is not in it; see quarry catalog list.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return withBucket(c.Context(), url, func(b *bucket.Bucket) error {
				rows, revision, err := a.readRows(c.Context(), b)
				if err != nil {
					return err
				}
				if a.output == "name" {
					for _, r := range rows {
						fmt.Fprintln(a.out, clean(r.Path))
					}
					return nil
				}
				return a.printObject(map[string]any{"revision": revision, "items": rows}, func() error {
					if len(rows) == 0 {
						_, err := fmt.Fprintf(a.err, "No catalog slate in %s: an agent makes it when it holds the region's duty.\n", b.URL())
						return err
					}
					t := newTable(a.out, "KEY", "REVISION", "VALUE")
					for _, r := range rows {
						t.row(r.Path, strconv.FormatUint(r.Revision, 10), string(r.Value))
					}
					return t.flush()
				})
			})
		},
	}
	c.Flags().StringVar(&url, "bucket", "", "URL of the region's bucket")
	return c
}

// readRows gives the rows of the catalog slate in the order of their keys, none
// where there is no catalog slate. Rows that cannot be understood are named on
// the error stream and left out.
func (a *app) readRows(ctx context.Context, b *bucket.Bucket) (rows []catalog.Row, revision uint64, err error) {
	rows = []catalog.Row{}
	r, err := slatedb.OpenReader(ctx, b, catalog.CatalogRoot, slatedb.ReaderOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return rows, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the catalog slate: %w", err)
	}
	for e, err := range r.Scan(ctx, nil, nil) {
		if err != nil {
			return nil, 0, fmt.Errorf("read the catalog slate: %w", err)
		}
		row, err := catalog.DecodeRow(e.Key, e.Value)
		if err != nil {
			fmt.Fprintf(a.err, "quarry: %v\n", err)
			continue
		}
		rows, revision = append(rows, row), max(revision, row.Revision)
	}
	return rows, revision, nil
}

package cmd

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newSlateDBPut(a *app, f *slatedbFlags) *cobra.Command {
	var from string
	c := &cobra.Command{
		Use: "put ROOT (--from FILE|- | KEY VALUE)", Short: "Write rows as one atomic batch; makes the database when there is none", Args: cobra.RangeArgs(1, 3),
		Long: `Writes all rows or none. With --from, each line is {"key":HEX,"value":HEX}, or
{"key":HEX,"value":null} to delete; - is standard input. KEY and VALUE are text.

It opens the database as its writer, so a writer that has it open is fenced: that one's next
write fails, and it has to open the database again. Rows are durable when it returns.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			var batch slatedb.Batch
			switch {
			case from != "" && len(args) == 1:
				if err := a.readBatch(from, &batch); err != nil {
					return err
				}
			case from == "" && len(args) == 3:
				batch.Put([]byte(args[1]), []byte(args[2]))
			default:
				return usagef("give the rows once: --from FILE, --from - for standard input, or one KEY and VALUE")
			}
			ctx := c.Context()
			return f.admin(ctx, args[0], func(db *slatedb.Admin, _ *bucket.Bucket) (err error) {
				if batch.Len() == 0 {
					return a.printPut(0, 0)
				}
				o := slatedb.Options{}
				if db.WALStore != nil {
					o.WALStore = db.WALStore
				}
				w, err := slatedb.Open(ctx, db.Store, db.Root, o)
				if err != nil {
					return err
				}
				seq, err := w.Write(ctx, &batch)
				if err != nil {
					w.Abandon()
					return err
				}
				// They are durable. A close that fails, because somebody
				// else writes by now, takes nothing back.
				if err := w.Close(ctx); err != nil && !errors.Is(err, slatedb.ErrFenced) {
					return fmt.Errorf("the rows are written (sequence number %d); close: %w", seq, err)
				}
				return a.printPut(batch.Len(), seq)
			})
		},
	}
	c.Flags().StringVar(&from, "from", "", "file of JSON lines with the rows; - for standard input")
	return c
}

func (a *app) printPut(rows int, seq uint64) error {
	return a.printObject(map[string]any{"rows": rows, "seq": seq}, func() error {
		if rows == 0 {
			_, err := fmt.Fprintln(a.out, "no rows, nothing was written")
			return err
		}
		_, err := fmt.Fprintf(a.out, "written: %s, sequence number %d\n", plural(rows, "change"), seq)
		return err
	})
}

// readBatch reads JSON lines.
func (a *app) readBatch(from string, batch *slatedb.Batch) error {
	r := a.in
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return withCode(exitUsage, fmt.Errorf("--from: %w", err))
		}
		defer file.Close()
		r = file
	}
	lines := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("--from %s, line %d: %w", from, n, err)
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if bad := addLine(batch, text); bad != nil {
				return usagef("--from %s, line %d: %w", from, n, bad)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// addLine adds one row. A value that is not given is no deletion: that must be
// said, with null.
func addLine(batch *slatedb.Batch, line []byte) error {
	var row struct {
		Key   *string         `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&row); err != nil {
		return err
	}
	if d.More() {
		return errors.New("one object a line, and there is more")
	}
	if row.Key == nil || row.Value == nil {
		return errors.New(`both are needed: {"key":HEX,"value":HEX}, or "value":null to delete`)
	}
	key, err := hex.DecodeString(*row.Key)
	if err != nil {
		return fmt.Errorf("key: hexadecimal digits, two a byte: %w", err)
	}
	var value *string
	if err := json.Unmarshal(row.Value, &value); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	if value == nil {
		batch.Delete(key)
		return nil
	}
	v, err := hex.DecodeString(*value)
	if err != nil {
		return fmt.Errorf("value: hexadecimal digits, two a byte: %w", err)
	}
	batch.Put(key, v)
	return nil
}

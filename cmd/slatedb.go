package cmd

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// slatedbFlags are shared by the commands that look at one database.
type slatedbFlags struct {
	bucket, wal string
}

func newSlateDB(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "slatedb",
		Short: "Look into any SlateDB database, and look after it; no hub needed",
		Long: `These commands work on a database of any published SlateDB version, OpenData's among them,
straight in its bucket. manifest, scan, get, verify, gc-plan and checkpoints list leave no
trace: no checkpoint, no fence, no manifest. What the others change they say first; what
they do not understand they refuse to touch (exit code 4). docs/slatedb-compat.md has the
whole list.

ROOT is a URL or a folder (file:///srv/eu/dbs/orders, ./data/orders), or with --bucket a
path in that bucket. Databases that a clone refers to are found from the bucket's root, so
give --bucket for clones.`,
	}
	var f slatedbFlags
	c.PersistentFlags().StringVar(&f.bucket, "bucket", "", "URL of the bucket; ROOT is then a path in it")
	c.PersistentFlags().StringVar(&f.wal, "wal", "", "URL of the separate WAL store, for databases that have one")
	c.AddCommand(newSlateDBManifest(a, &f), newSlateDBScan(a, &f), newSlateDBGet(a, &f), newSlateDBCheckpoints(a, &f), newSlateDBVerify(a, &f),
		newSlateDBPut(a, &f), newSlateDBGCPlan(a, &f), newSlateDBGC(a, &f), newSlateDBCopy(a, &f), newSlateDBClone(a, &f),
		newSlateDBFence(a, &f), newSlateDBPill(a, &f), newSlateDBUnpill(a, &f), newSlateDBRepair(a, &f))
	return c
}

// with opens the store and the separate WAL store, if any, for one command.
func (f *slatedbFlags) with(ctx context.Context, arg string, do func(s *bucket.Bucket, root string, wal slatedb.Store) error) error {
	url, root := arg, ""
	if f.bucket != "" {
		url, root = f.bucket, strings.Trim(arg, "/")
	}
	b, err := openBucket(ctx, url)
	if err != nil {
		return err
	}
	defer b.Close()
	var wal slatedb.Store
	if f.wal != "" {
		w, err := openBucket(ctx, f.wal)
		if err != nil {
			return fmt.Errorf("the WAL store: %w", err)
		}
		defer w.Close()
		wal = w
	}
	err = do(b, root, wal)
	if err != nil && f.bucket == "" && exitCode(err) != exitInterrupted && isClone(ctx, b) {
		err = fmt.Errorf("%w; this database is a clone, whose parent is found from the bucket's root: give --bucket URL and ROOT as a path in it", err)
	}
	if errors.Is(err, slatedb.ErrWALStore) {
		return withCode(exitRefused, fmt.Errorf("%w; name it with --wal URL", err))
	}
	return err
}

// admin opens the database for a change. What a rule forbids has its own exit
// code.
func (f *slatedbFlags) admin(ctx context.Context, arg string, do func(db *slatedb.Admin, b *bucket.Bucket) error) error {
	return f.with(ctx, arg, func(b *bucket.Bucket, root string, wal slatedb.Store) error {
		db := &slatedb.Admin{Store: b, Root: root}
		if w, ok := wal.(*bucket.Bucket); ok {
			db.WALStore = w
		}
		return refused(do(db, b))
	})
}

// refused gives the exit code of what must not be done, or not now.
func refused(err error) error {
	var c *coded
	if errors.As(err, &c) {
		return err
	}
	if slatedb.Refused(err) || errors.Is(err, slatedb.ErrFenced) || errors.Is(err, slatedb.ErrBusy) {
		return withCode(exitRefused, err)
	}
	return err
}

// isClone tells whether the database at the bucket's root reads tables of
// another, which cannot be found from there.
func isClone(ctx context.Context, b *bucket.Bucket) bool {
	head, err := slatedb.Latest(ctx, b, "")
	return err == nil && len(head.Manifest.ExternalDBs) > 0
}

func newSlateDBManifest(a *app, f *slatedbFlags) *cobra.Command {
	var id uint64
	c := &cobra.Command{
		Use: "manifest ROOT", Short: "Show the newest manifest, or the one with --id", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.with(c.Context(), args[0], func(s *bucket.Bucket, root string, _ slatedb.Store) error {
				head, err := readHead(c.Context(), s, root, id)
				pill := head != nil && head.Pill != nil
				if err != nil && !pill {
					return err
				}
				shown := head
				if pill {
					if shown = head.Below; a.output == "table" || a.output == "wide" {
						fmt.Fprintf(a.out, "%s\n\n", clean(head.Pill.Error()))
					}
				}
				answer := struct {
					Pill     *string        `json:"pill"`
					PillID   *uint64        `json:"pill_id,omitempty"`
					Manifest *manifest.JSON `json:"manifest"`
				}{}
				if pill {
					answer.Pill, answer.PillID = &head.Pill.Reason, &head.ID
				}
				if shown == nil {
					return a.printObject(answer, func() error {
						_, err := fmt.Fprintln(a.out, "No readable manifest lies below it.")
						return err
					})
				}
				j := shown.Manifest.JSON(shown.ID)
				answer.Manifest = j
				if !pill {
					return a.printObject(j, func() error { return a.printHead(shown) })
				}
				return a.printObject(answer, func() error { return a.printHead(shown) })
			})
		},
	}
	c.Flags().Uint64Var(&id, "id", 0, "id of the manifest; 0: the newest")
	return c
}

func readHead(ctx context.Context, s *bucket.Bucket, root string, id uint64) (*slatedb.Head, error) {
	if id == 0 {
		return slatedb.Latest(ctx, s, root)
	}
	return slatedb.At(ctx, s, root, id)
}

func (a *app) printHead(h *slatedb.Head) error {
	w := a.out
	m := h.Manifest
	line := func(k string, v any) { fmt.Fprintf(w, "%-22s %v\n", k, v) }
	line("manifest", fmt.Sprintf("%d (version %d)", h.ID, m.Version))
	line("writer epoch", m.WriterEpoch)
	line("compactor epoch", m.CompactorEpoch)
	if !m.Initialized {
		line("initialized", "no: a clone under construction")
	}
	line("last L0 sequence", m.LastL0Seq)
	line("replay after WAL", m.ReplayAfterWAL)
	line("WAL last seen", m.WALLastSeen)
	if m.WALStoreMarked {
		line("WAL store", "another one (marked in the manifest)")
	}
	if m.ExtractorName != "" {
		line("segment extractor", clean(m.ExtractorName))
	}
	line("table bytes", byteSize(m.Size()))
	if m.UnknownFields {
		line("unknown fields", "yes: written by a newer SlateDB than this reader knows")
	}
	fmt.Fprintln(w)
	t := newTable(w, "TREE", "L0", "RUNS", "TABLES IN RUNS")
	m.Trees(func(prefix []byte, tree *manifest.Tree) {
		in := 0
		for _, r := range tree.Runs {
			in += len(r.Tables)
		}
		name := "root"
		if prefix != nil {
			name = "segment " + hex.EncodeToString(prefix)
		}
		t.row(name, fmt.Sprint(len(tree.L0)), fmt.Sprint(len(tree.Runs)), fmt.Sprint(in))
	})
	if err := t.flush(); err != nil {
		return err
	}
	if len(m.ExternalDBs) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "READS TABLES OF", "TABLES", "PINNED BY ITS CHECKPOINT")
		for _, e := range m.ExternalDBs {
			pin := ""
			if e.FinalCheckpoint != nil {
				pin = e.FinalCheckpoint.String()
			}
			t.row(e.Path, fmt.Sprint(len(e.Tables)), pin)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(m.Checkpoints) > 0 {
		fmt.Fprintln(w)
		return a.printCheckpoints(h.Checkpoints(time.Now()))
	}
	return nil
}

// entryJSON is one row as `scan` and `get` print it.
type entryJSON struct {
	Key      string   `json:"key"`
	Value    *string  `json:"value,omitempty"`
	Base     *string  `json:"base,omitempty"`
	Operands []string `json:"operands,omitempty"`
	Seq      uint64   `json:"seq"`
	CreateTS *int64   `json:"create_ts"`
	ExpireTS *int64   `json:"expire_ts"`
}

// MarshalJSON writes value, or base (null when there is none) and operands.
func (e entryJSON) MarshalJSON() ([]byte, error) {
	if e.Operands == nil {
		type plain entryJSON
		return json.Marshal(plain(e))
	}
	return json.Marshal(struct {
		Key      string   `json:"key"`
		Base     *string  `json:"base"`
		Operands []string `json:"operands"`
		Seq      uint64   `json:"seq"`
		CreateTS *int64   `json:"create_ts"`
		ExpireTS *int64   `json:"expire_ts"`
	}{e.Key, e.Base, e.Operands, e.Seq, e.CreateTS, e.ExpireTS})
}

func newEntryJSON(e *slatedb.Entry) entryJSON {
	j := entryJSON{Key: hex.EncodeToString(e.Key), Seq: e.Seq}
	if len(e.Operands) > 0 {
		j.Operands = make([]string, 0, len(e.Operands))
		for _, o := range e.Operands {
			j.Operands = append(j.Operands, hex.EncodeToString(o))
		}
		if e.Base != nil {
			s := hex.EncodeToString(e.Base)
			j.Base = &s
		}
	} else {
		s := hex.EncodeToString(e.Value)
		j.Value = &s
	}
	if e.HasCreate {
		j.CreateTS = &e.CreateTS
	}
	if e.HasExpire {
		j.ExpireTS = &e.ExpireTS
	}
	return j
}

// encodeYAML writes one document of a stream.
func encodeYAML(w io.Writer, e entryJSON) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if b, err = yaml.JSONToYAML(b); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "---\n%s", b)
	return err
}

func newSlateDBScan(a *app, f *slatedbFlags) *cobra.Command {
	var from, to, prefix, checkpoint string
	var limit uint64
	var count, skipWAL bool
	c := &cobra.Command{
		Use: "scan ROOT", Short: "Print the rows, in key order", Args: cobra.ExactArgs(1),
		Long: `Prints every row the database holds now, as a reader of it would see them, or with
--checkpoint as that checkpoint pins them. Keys on which only merge operands lie print
the operands: only the application knows how to join them.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			lo, hi, err := scanBounds(from, to, prefix)
			if err != nil {
				return err
			}
			ctx := c.Context()
			return f.with(ctx, args[0], func(s *bucket.Bucket, root string, wal slatedb.Store) error {
				r, err := slatedb.OpenReader(ctx, s, root, slatedb.ReaderOptions{Checkpoint: checkpoint, WALStore: wal, SkipWAL: skipWAL})
				if err != nil {
					return err
				}
				a.warnOfWAL(ctx, s, root, wal, r, skipWAL)
				w := bufio.NewWriterSize(a.out, 1<<16)
				defer w.Flush()
				enc := json.NewEncoder(w)
				enc.SetEscapeHTML(false)
				var rows, bytes uint64
				for e, err := range r.Scan(ctx, lo, hi) {
					if err != nil {
						return err
					}
					rows++
					bytes += uint64(len(e.Key) + len(e.Value))
					switch {
					case count:
					case a.output == "json":
						err = enc.Encode(newEntryJSON(e))
					case a.output == "yaml":
						err = encodeYAML(w, newEntryJSON(e))
					default:
						err = printEntry(w, e)
					}
					if err != nil {
						return err
					}
					if limit > 0 && rows == limit {
						break
					}
				}
				for _, find := range r.Findings() {
					fmt.Fprintf(a.err, "quarry: %s\n", find)
				}
				if count {
					if a.output == "json" {
						return enc.Encode(map[string]uint64{"rows": rows, "bytes": bytes})
					}
					_, err = fmt.Fprintf(w, "%d rows, %d bytes\n", rows, bytes)
				}
				return err
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&from, "from-hex", "", "first key, in hex")
	fl.StringVar(&to, "to-hex", "", "key to stop before, in hex")
	fl.StringVar(&prefix, "prefix-hex", "", "only keys that begin with this, in hex")
	fl.StringVar(&checkpoint, "checkpoint", "", "id or name of a checkpoint: the state it pins")
	fl.Uint64Var(&limit, "limit", 0, "stop after this many rows; 0: all")
	fl.BoolVar(&count, "count", false, "print only how many rows and bytes there are")
	fl.BoolVar(&skipWAL, "skip-wal", false, "leave out rows that are only in the WAL")
	return c
}

// warnOfWAL says when rows may be missing that are in a WAL of which nothing is
// known. SlateDB itself says nothing.
func (a *app) warnOfWAL(ctx context.Context, s *bucket.Bucket, root string, named slatedb.Store, r *slatedb.Reader, skip bool) {
	m := r.Manifest()
	if named != nil || skip || r.WALTail() > m.ReplayAfterWAL {
		return
	}
	sight := &slatedb.Sight{Root: root, Head: &slatedb.Head{Root: root, ID: r.ManifestID(), Manifest: m}, WAL: []slatedb.Stored{}}
	if _, _, err := s.Stat(ctx, slatedb.WALKey(root, m.ReplayAfterWAL)); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, f := range slatedb.Symptoms(sight) {
		if f.Code == slatedb.WALStoreUnmarked {
			fmt.Fprintf(a.err, "quarry: %s\n", f)
		}
	}
}

func scanBounds(from, to, prefix string) (lo, hi []byte, err error) {
	for _, b := range []struct {
		flag, v string
		into    *[]byte
	}{{"from-hex", from, &lo}, {"to-hex", to, &hi}} {
		if b.v == "" {
			continue
		}
		if *b.into, err = hex.DecodeString(b.v); err != nil {
			return nil, nil, usagef("--%s %q: hexadecimal digits, two a byte: %w", b.flag, b.v, err)
		}
	}
	if prefix == "" {
		return lo, hi, nil
	}
	if from != "" || to != "" {
		return nil, nil, usagef("--prefix-hex stands alone: leave out --from-hex and --to-hex")
	}
	p, err := hex.DecodeString(prefix)
	if err != nil {
		return nil, nil, usagef("--prefix-hex %q: hexadecimal digits, two a byte: %w", prefix, err)
	}
	return p, after(p), nil
}

// after is the smallest key greater than all keys that begin with p; nil when
// there is none.
func after(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xFF {
			hi := append([]byte(nil), p[:i+1]...)
			hi[i]++
			return hi
		}
	}
	return nil
}

func printEntry(w *bufio.Writer, e *slatedb.Entry) error {
	_, err := fmt.Fprintf(w, "%s\t", show(e.Key))
	if err != nil {
		return err
	}
	if len(e.Operands) == 0 {
		_, err = fmt.Fprintf(w, "%s\n", show(e.Value))
		return err
	}
	base := "nothing"
	if e.Base != nil {
		base = show(e.Base)
	}
	_, err = fmt.Fprintf(w, "merge of %d operands on %s\n", len(e.Operands), base)
	return err
}

// show prints bytes as text when they are that, else as hex.
func show(b []byte) string {
	if utf8.Valid(b) {
		s := string(b)
		if clean(s) == s && !strings.HasPrefix(s, "0x") {
			return s
		}
	}
	return "0x" + hex.EncodeToString(b)
}

func newSlateDBGet(a *app, f *slatedbFlags) *cobra.Command {
	var keyHex, keyText, checkpoint string
	c := &cobra.Command{
		Use: "get ROOT --key TEXT", Short: "Print one row; exit code 3 when there is none", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			key := []byte(keyText)
			if hexSet, textSet := c.Flags().Changed("key-hex"), c.Flags().Changed("key"); hexSet == textSet {
				return usagef("give the key once, as --key TEXT or as --key-hex HEX")
			} else if hexSet {
				var err error
				if key, err = hex.DecodeString(keyHex); err != nil {
					return usagef("--key-hex %q: hexadecimal digits, two a byte: %w", keyHex, err)
				}
			}
			ctx := c.Context()
			return f.with(ctx, args[0], func(s *bucket.Bucket, root string, wal slatedb.Store) error {
				r, err := slatedb.OpenReader(ctx, s, root, slatedb.ReaderOptions{Checkpoint: checkpoint, WALStore: wal})
				if err != nil {
					return err
				}
				a.warnOfWAL(ctx, s, root, wal, r, false)
				e, err := r.Get(ctx, key)
				if errors.Is(err, fs.ErrNotExist) {
					return withCode(exitNotFound, fmt.Errorf("no row with key %s", show(key)))
				}
				if err != nil {
					return err
				}
				switch a.output {
				case "json":
					return json.NewEncoder(a.out).Encode(newEntryJSON(&e))
				case "yaml":
					return encodeYAML(a.out, newEntryJSON(&e))
				}
				w := bufio.NewWriter(a.out)
				defer w.Flush()
				return printEntry(w, &e)
			})
		},
	}
	c.Flags().StringVar(&keyHex, "key-hex", "", "the key, in hex")
	c.Flags().StringVar(&keyText, "key", "", "the key, as text")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "id or name of a checkpoint: the state it pins")
	return c
}

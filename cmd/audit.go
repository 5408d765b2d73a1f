package cmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func newAudit(a *app) *cobra.Command {
	var since, head, file, store string
	var verify, noHeaders bool
	var limit int
	c := &cobra.Command{
		Use: "audit", Short: "Who did what, when and why", Args: cobra.NoArgs,
		Long: `Lists the audit: every document that was applied or removed, every hold, freeze, change of
membership, accepted region and decision, with who did it. Entries are numbered without gaps
and each holds the hash of the one before.

--verify reads all of it and names entries that were edited, are missing, or stand in another's
place (exit code 4). It prints the head of the audit: keep it. An end that was cut off, a last
entry that was edited, and a history made anew from one entry on can only be seen against a head
that was kept (--head); the hub that runs keeps the newest by itself.

--verify --file verifies a copy that was printed with -o json, --verify --store the ledger in the
hub's store itself, with no hub.`,
		Example: "  quarry audit --since 24h\n  quarry audit -o json > audit.json\n  quarry audit --verify --head 17:9f86d0…\n  quarry audit --verify --file audit.json",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			switch {
			case !verify && (file != "" || store != "" || head != ""):
				return usagef("--file, --store and --head say what to verify: give --verify too")
			case file != "" && store != "":
				return usagef("--file and --store: verify one of the two")
			case verify && since != "":
				return usagef("--verify reads all of the audit: leave --since out")
			case limit < 0:
				return usagef("--limit %d: a number of entries, or 0 for all", limit)
			}
			if verify {
				return a.verifyAudit(c.Context(), head, file, store)
			}
			return a.listAudit(c.Context(), since, limit, noHeaders)
		},
	}
	f := c.Flags()
	f.StringVar(&since, "since", "", "only what is younger than this, such as 24h or 7d")
	f.BoolVar(&verify, "verify", false, "verify all of it, and print its head")
	f.StringVar(&head, "head", "", "with --verify: NUMBER:HASH that was kept earlier")
	f.StringVar(&file, "file", "", "with --verify: a copy made with -o json; - is standard input")
	f.StringVar(&store, "store", "", "with --verify: URL of the hub's own bucket")
	f.IntVar(&limit, "limit", 500, "at most so many; 0: all")
	f.BoolVar(&noHeaders, "no-headers", false, "no header line")
	return c
}

func (a *app) listAudit(ctx context.Context, since string, limit int, noHeaders bool) error {
	var age time.Duration
	if since != "" {
		var ok bool
		if age, ok = query.ParseAge(since); !ok {
			return usagef("--since %q: an age such as 24h or 7d", since)
		}
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	ask := limit
	if limit > 0 {
		ask = limit + 1
	}
	items, head, err := cl.Audit(ctx, 0, age, ask)
	if err != nil {
		return a.hubError(err)
	}
	more := limit > 0 && len(items) > limit
	if more {
		items = items[:limit]
	}
	if a.output == "json" || a.output == "yaml" {
		return a.printObject(map[string]any{"items": items, "head": head}, nil)
	}
	if len(items) == 0 && since == "" {
		fmt.Fprintln(a.err, "The audit is empty.")
	} else if len(items) == 0 {
		fmt.Fprintf(a.err, "Nothing was done in the last %s.\n", since)
	}
	rows := &flowingTable{width: []int{6, len(time.DateTime), 12, 10, 24}}
	if !noHeaders {
		rows.header = []string{"NUMBER", "TIME", "WHO", "WHAT", "OF", "WHY"}
	}
	for _, raw := range items {
		var e state.AuditEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("an entry of the audit: %w", err)
		}
		if a.output == "name" {
			if _, err := fmt.Fprintln(a.out, e.Number); err != nil {
				return err
			}
			continue
		}
		rows.row(fmt.Sprint(e.Number), e.At.Local().Format(time.DateTime), e.Who, e.What, e.Of, e.Why)
	}
	if _, err := fmt.Fprint(a.out, rows.take()); err != nil {
		return err
	}
	if more {
		fmt.Fprintln(a.err, "… there are more; --limit 0 prints all")
	}
	return nil
}

func (a *app) verifyAudit(ctx context.Context, kept, file, store string) error {
	var report state.AuditReport
	if file == "" && store == "" {
		cl, err := a.client()
		if err != nil {
			return err
		}
		got, err := cl.VerifyAudit(ctx, kept)
		if err != nil {
			return a.hubError(err)
		}
		report = state.AuditReport{Entries: got.Entries, Head: state.AuditHead(got.Head), Problems: []state.AuditProblem{}}
		for _, p := range got.Problems {
			report.Problems = append(report.Problems, state.AuditProblem(p))
		}
	} else {
		var head state.AuditHead
		if kept != "" {
			var err error
			if head, err = state.ParseAuditHead(kept); err != nil {
				return usagef("--head %w", err)
			}
		}
		records, err := a.auditIn(ctx, file, store)
		if err != nil {
			return err
		}
		report = state.VerifyAudit(records, head)
	}
	err := a.printObject(report, func() error {
		for _, p := range report.Problems {
			if _, err := fmt.Fprintf(a.out, "%s: %s\n", p.What, clean(p.Text)); err != nil {
				return err
			}
		}
		if len(report.Problems) > 0 || report.Entries == 0 {
			_, err := fmt.Fprintf(a.out, "%d entries were read\n", report.Entries)
			return err
		}
		_, err := fmt.Fprintf(a.out, "%d entries, whole and unchanged up to\n%s\nkeep this line: --head with it shows later whether the end was cut off or made anew\n", report.Entries, report.Head)
		return err
	})
	if err == nil && len(report.Problems) > 0 {
		err = withCode(exitRefused, fmt.Errorf("the audit is not what was recorded: %s", plural(len(report.Problems), "problem")))
	}
	return err
}

// auditIn reads an audit from a copy or from a ledger's slate.
func (a *app) auditIn(ctx context.Context, file, store string) ([]state.Record, error) {
	if store != "" {
		b, err := openBucket(ctx, store)
		if err != nil {
			return nil, fmt.Errorf("the hub's store: %w", err)
		}
		defer b.Close()
		r, err := slatedb.OpenReader(ctx, b, ledger.JournalRoot, slatedb.ReaderOptions{})
		if err != nil {
			return nil, fmt.Errorf("the ledger: %w", err)
		}
		var out []state.Record
		prefix := ledger.JournalPrefix + "audit/"
		for e, err := range r.ScanPrefix(ctx, []byte(prefix)) {
			if err != nil {
				return nil, fmt.Errorf("the ledger: %w", err)
			}
			out = append(out, state.Record{Key: string(e.Key[len(ledger.JournalPrefix):]), Value: bytes.Clone(e.Value)})
		}
		return out, nil
	}
	var raw []byte
	var err error
	if file == "-" {
		raw, err = io.ReadAll(a.in)
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the copy: %w", err)
	}
	return readAuditCopy(raw)
}

// readAuditCopy reads what -o json printed, or entries one a line. An entry that
// cannot be read takes the place after the one before it.
func readAuditCopy(raw []byte) ([]state.Record, error) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(raw, &list) != nil || list.Items == nil {
		list.Items = nil
		lines := bufio.NewScanner(bytes.NewReader(raw))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
				list.Items = append(list.Items, bytes.Clone(line))
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("the copy: %w", err)
		}
	}
	if len(list.Items) == 0 {
		return nil, withCode(exitUsage, errors.New("the copy holds no entry; make one with quarry audit --limit 0 -o json"))
	}
	var out []state.Record
	next := uint64(1)
	for _, item := range list.Items {
		var row api.AuditRow
		d := json.NewDecoder(bytes.NewReader(item))
		d.DisallowUnknownFields()
		if err := d.Decode(&row); err != nil || row.Number == 0 {
			out = append(out, state.Record{Key: state.AuditKey(next), Value: item})
		} else if row.Hash != "" && !strings.EqualFold(row.Hash, row.AuditEntry.Hash()) {
			// What the copy says of itself counts too.
			out = append(out, state.Record{Key: state.AuditKey(row.Number), Value: []byte("its hash is not the one beside it")})
			next = row.Number
		} else {
			out = append(out, state.Record{Key: state.AuditKey(row.Number), Value: row.AuditEntry.Encode()})
			next = row.Number
		}
		next++
	}
	return out, nil
}

package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"errors"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// batch is one document of the event log.
type batch struct {
	number uint64
	events int
}

// maxBatches bounds the documents of the event log, for each is read when a
// hub starts.
const maxBatches = 2000

// header opens an events document or a saved view; trailer closes it. Between
// them is one JSON object a line. A document without its trailer was not
// written to its end.
type header struct {
	Format int    `json:"format"` // 1
	Claim  uint64 `json:"claim"`  // the hub that wrote it
}

type trailer struct {
	Rows   int    `json:"rows"`
	SHA256 string `json:"sha256"` // of everything before the trailer's line
}

const format = 1

var errDamaged = errors.New("damaged")

func eventsKey(n uint64) string { return numbered(eventsFolder, n, ".jsonl") }

func (l *Ledger) appendEvents(ctx context.Context, events []catalog.Event) error {
	if len(events) == 0 {
		return nil
	}
	var b bytes.Buffer
	line(&b, header{format, l.claim.Number})
	for i := range events {
		line(&b, &events[i])
	}
	seal(&b, len(events))
	if err := l.put(ctx, eventsKey(l.nextEvents), b.Bytes()); err != nil {
		return fmt.Errorf("record events %d to %d: %w", events[0].Seq, events[len(events)-1].Seq, err)
	}
	l.batches = append(l.batches, batch{l.nextEvents, len(events)})
	l.kept += len(events)
	l.nextEvents++
	l.pruneEvents(ctx)
	return nil
}

// pruneEvents deletes the oldest batches while enough events are left.
func (l *Ledger) pruneEvents(ctx context.Context) {
	for len(l.batches) > 1 && (l.kept-l.batches[0].events >= l.maxEvents || len(l.batches) > maxBatches) {
		if err := l.remove(ctx, eventsKey(l.batches[0].number)); err != nil {
			l.log.Warn("old events stay", "key", eventsKey(l.batches[0].number), "error", err)
			return
		}
		l.kept -= l.batches[0].events
		l.batches = l.batches[1:]
	}
}

// readEvents reads all kept events, in order. A batch that is not whole was
// not shown to anybody, or its events are lost; either way the rest counts.
func (l *Ledger) readEvents(ctx context.Context) ([]catalog.Event, error) {
	all, err := l.numbers(ctx, eventsFolder, ".jsonl")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", eventsFolder, err)
	}
	l.nextEvents = 1
	if len(all) > 0 {
		l.nextEvents = all[len(all)-1] + 1
	}
	read := make([][]catalog.Event, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	gate := make(chan struct{}, 16)
	for i, n := range all {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			read[i], errs[i] = l.readBatch(ctx, eventsKey(n))
		})
	}
	wg.Wait()
	var out []catalog.Event
	for i, n := range all {
		switch err := errs[i]; {
		case errors.Is(err, errDamaged), errors.Is(err, fs.ErrNotExist):
			l.log.Warn("events passed over", "key", eventsKey(n), "error", err)
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", eventsKey(n), err)
		}
		l.batches = append(l.batches, batch{n, len(read[i])})
		l.kept += len(read[i])
		out = append(out, read[i]...)
	}
	// A hub that did not know yet that it was replaced may have numbered
	// events like the next one did: what was written first stands.
	slices.SortStableFunc(out, func(a, b catalog.Event) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(out, func(a, b catalog.Event) bool { return a.Seq == b.Seq }), nil
}

func (l *Ledger) readBatch(ctx context.Context, key string) ([]catalog.Event, error) {
	b, err := l.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	_, rows, err := unseal(b)
	if err != nil {
		return nil, err
	}
	out := make([]catalog.Event, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r, &out[i]); err != nil {
			return nil, fmt.Errorf("row %d: %w: %w", i+1, err, errDamaged)
		}
	}
	return out, nil
}

func line(b *bytes.Buffer, v any) {
	b.Write(marshal(v))
	b.WriteByte('\n')
}

// seal closes a document.
func seal(b *bytes.Buffer, rows int) {
	sum := sha256.Sum256(b.Bytes())
	line(b, trailer{rows, hex.EncodeToString(sum[:])})
}

// unseal gives a document's first line and its rows, if it is whole.
func unseal(b []byte) (first []byte, rows [][]byte, err error) {
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return nil, nil, fmt.Errorf("not written to its end: %w", errDamaged)
	}
	body := b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1]
	var t trailer
	if err := json.Unmarshal(b[len(body):], &t); err != nil || t.SHA256 == "" {
		return nil, nil, fmt.Errorf("not written to its end: %w", errDamaged)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != t.SHA256 {
		return nil, nil, fmt.Errorf("checksum does not match: %w", errDamaged)
	}
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	var h header
	if err := json.Unmarshal(lines[0], &h); err != nil {
		return nil, nil, fmt.Errorf("first line: %w: %w", err, errDamaged)
	}
	if h.Format != format {
		return nil, nil, fmt.Errorf("format %d, this version of quarry reads %d: %w", h.Format, format, errDamaged)
	}
	if len(lines)-1 != t.Rows {
		return nil, nil, fmt.Errorf("%d rows, %d promised: %w", len(lines)-1, t.Rows, errDamaged)
	}
	return lines[0], lines[1:], nil
}

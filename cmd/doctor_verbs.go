package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// verbsOf reads a list of verbs that agents carry out.
func verbsOf(list []string) ([]catalog.Verb, error) {
	var out []catalog.Verb
	for _, name := range list {
		v := catalog.Verb(strings.TrimSpace(name))
		if !v.Valid() {
			return nil, usagef("--allow %q: one of %v", name, catalog.Verbs)
		}
		out = append(out, v)
	}
	return out, nil
}

// The rights that verbs need on slates, beside those below .quarry/.
var (
	makesManifests = []catalog.Verb{catalog.VerbHold, catalog.VerbRelease}
	ownOnly        = []catalog.Verb{catalog.VerbPermit, catalog.VerbWithdraw, catalog.VerbVerify, catalog.VerbResync, catalog.VerbFreeze, catalog.VerbThaw}
)

// tooDeep is deeper than agents look for slates: they take no probe for one.
const tooDeep = "0/1/2/3/4/5/6/7/8/"

// examineVerbs tries the rights that verbs need, below a folder of its own in
// each prefix, where no slate is and no agent looks for one.
func examineVerbs(ctx context.Context, b *bucket.Bucket, allow []catalog.Verb, prefixes []string, readOnly bool) []check {
	var out []check
	any := func(of []catalog.Verb) bool {
		return slices.ContainsFunc(allow, func(v catalog.Verb) bool { return slices.Contains(of, v) })
	}
	if len(allow) == 0 {
		return nil
	}
	for _, v := range allow {
		switch {
		case slices.Contains(ownOnly, v):
			out = append(out, check{Name: string(v), OK: true, What: "needs no more than what was tried below .quarry/"})
		case slices.Contains(makesManifests, v), v == catalog.VerbPrune:
		default:
			out = append(out, check{Name: string(v), What: "no agent of this version carries it out; nothing was tried", Fix: "leave it out of --allow"})
		}
	}
	if !any(makesManifests) && !slices.Contains(allow, catalog.VerbPrune) {
		return out
	}
	if readOnly {
		return append(out, check{Name: "slates", What: "not tried: with --read-only nothing is written", Fix: "leave --read-only away to try what " + words(allow) + " need"})
	}
	for _, p := range prefixes {
		folder := strings.Trim(p, "/")
		if folder != "" {
			folder += "/"
		}
		out = append(out, tryPrefix(ctx, b, folder+"quarry-doctor-"+ulid.Make().String()+"/"+tooDeep, p, any(makesManifests), slices.Contains(allow, catalog.VerbPrune))...)
	}
	return out
}

func words(verbs []catalog.Verb) string {
	var all []string
	for _, v := range verbs {
		all = append(all, string(v))
	}
	return strings.Join(all, ", ")
}

// tryPrefix tries to do below a folder what holding and pruning do in slates.
// What it cannot remove again it names.
func tryPrefix(ctx context.Context, b *bucket.Bucket, folder, prefix string, holds, prunes bool) (out []check) {
	where := "below " + prefix
	if strings.Trim(prefix, "/") == "" {
		where = "in the bucket"
	}
	add := func(name string, needed bool, err error, good, fix string) bool {
		k := check{Name: name, OK: err == nil, Needed: needed, What: good}
		if err != nil {
			k.What, k.Fix, k.denied = err.Error(), fix, errors.Is(err, fs.ErrPermission)
		}
		out = append(out, k)
		return err == nil
	}
	var made []string
	create := func(key string) error {
		err := b.PutNew(ctx, key, []byte("quarry doctor"))
		if err == nil {
			made = append(made, key)
		}
		return err
	}
	if holds {
		add("hold, release", true, create(folder+"manifest/00000000000000000000.probe"),
			"manifests can be created "+where+"; whether a rule treats one slate otherwise, by its name, cannot be tried",
			"grant put on <slate>/manifest/* "+where+", or leave hold and release out of --allow")
	}
	if prunes {
		pointer, data := folder+"latest.json", folder+"lsn_00000000000000000000-probe/metadata.json"
		err := create(pointer)
		if err == nil {
			err = replaces(ctx, b, pointer)
		}
		add("prune: pointer", true, err, "latest.json can be replaced "+where+", only if it is what was read", "grant put on */latest.json "+where+" on a store that honours If-Match, or leave prune out of --allow")
		switch err := create(data); {
		case err != nil:
			// Pruning itself creates nothing there.
			add("prune: delete", false, fmt.Errorf("not tried: no probe could be created to be deleted: %w", err), "", "whether snapshot folders can be deleted shows when prune is carried out")
		default:
			err := b.Delete(ctx, data)
			if err == nil {
				made = slices.DeleteFunc(made, func(k string) bool { return k == data })
			}
			add("prune: delete", true, err, "snapshot folders can be deleted "+where, "grant delete on */lsn_*/* "+where+", or leave prune out of --allow")
		}
	}
	var left []string
	for _, key := range made {
		if err := b.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			left = append(left, key)
		}
	}
	if len(left) > 0 {
		add("probes", false, fmt.Errorf("could not be removed: %s", strings.Join(left, ", ")), "", "they are in no slate and nothing reads them; remove them by hand. That nothing can be deleted there is right, but for prune")
	}
	return out
}

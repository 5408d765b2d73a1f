package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func newCatalog(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "catalog",
		Short: "Read and add to a region's catalog in its bucket; no hub needed",
		Long: `What owners declare about their slates lies in the region's own bucket. Any process
may register a slate by dropping one JSON object; these commands do it for you.`,
	}
	c.AddCommand(newCatalogList(a), newCatalogRegister(a), newCatalogDeregister(a), newCatalogDump(a))
	return c
}

// openBucket opens a bucket by its URL. No cloud is asked, so what fails is a
// folder that is not there, or a URL that is wrong: a usage error.
func openBucket(ctx context.Context, url string) (*bucket.Bucket, error) {
	b, err := bucket.Open(ctx, url)
	if err != nil && exitCode(err) == exitError && !errors.Is(err, bucket.ErrUnavailable) {
		return nil, withCode(exitUsage, err)
	}
	return b, err
}

// withBucket opens url for one command.
func withBucket(ctx context.Context, url string, do func(*bucket.Bucket) error) error {
	if url == "" {
		return usagef("--bucket URL is needed, such as --bucket file:///srv/eu or --bucket s3://eu-slates?region=eu-west-1")
	}
	b, err := openBucket(ctx, url)
	if err != nil {
		return err
	}
	defer b.Close()
	return do(b)
}

func newCatalogList(a *app) *cobra.Command {
	var url string
	c := &cobra.Command{
		Use: "list --bucket URL", Short: "List registrations, and the slates that the catalog shows", Args: cobra.NoArgs,
		Long: `Lists what owners declared, in the catalog and in the inbox, and what the holder of the
region's duty last wrote of each slate: all of it from the bucket, whether a hub or an agent
runs or not. Numbers that go on all the time may be a minute old.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return withBucket(c.Context(), url, func(b *bucket.Bucket) error {
				regs, bad, err := watch.ReadRegistrations(c.Context(), b)
				if err != nil {
					return err
				}
				for _, f := range bad {
					fmt.Fprintf(a.err, "quarry: %s: %s\n", f.Object, f.What)
				}
				if regs == nil {
					regs = []catalog.Registration{}
				}
				rows, revision, err := a.readRows(c.Context(), b)
				if err != nil {
					return err
				}
				places := placesIn(rows, watch.Standing(regs))
				if a.output == "name" {
					for _, r := range regs {
						fmt.Fprintln(a.out, clean(r.Slate))
					}
					return nil
				}
				return a.printObject(map[string]any{"items": regs, "placements": places, "revision": revision}, func() error {
					if len(places) > 0 {
						if err := a.printPlaces(places); err != nil || len(regs) == 0 {
							return err
						}
						fmt.Fprintln(a.out)
					}
					if len(regs) == 0 {
						_, err := fmt.Fprintf(a.err, "No registrations in %s. Make one:\n  quarry catalog register --bucket %s --name orders --root dbs/orders --owner team-a\n", b.URL(), b.URL())
						return err
					}
					t := newTable(a.out, "SLATE", "ROOT", "KIND", "OWNER", "ACTION", "AGE", "ID")
					for _, r := range regs {
						t.row(r.Slate, r.Root, string(r.Kind), r.Owner, string(r.Action), age(r.At), r.ID)
					}
					return t.flush()
				})
			})
		},
	}
	c.Flags().StringVar(&url, "bucket", "", "URL of the region's bucket")
	return c
}

func newCatalogRegister(a *app) *cobra.Command {
	var url string
	var labels []string
	r := catalog.Registration{Version: 1, Action: catalog.Register}
	var kind string
	c := &cobra.Command{
		Use: "register --bucket URL --name N --root PATH", Short: "Declare a slate: its name, owner, kind and labels", Args: cobra.NoArgs,
		Example: "  quarry catalog register --bucket file:///srv/eu --name orders --root dbs/orders --kind log --owner team-a --label tier=gold",
		RunE: func(c *cobra.Command, _ []string) error {
			r.Kind = catalog.Kind(kind)
			r.Root = strings.Trim(r.Root, "/")
			switch {
			case r.Slate == "":
				return usagef("--name NAME is needed: what the slate is to be called")
			case r.Root == "":
				return usagef("--root PATH is needed: where in the bucket the slate lies, such as dbs/orders")
			case kind != "" && !slices.Contains(kindNames(), kind):
				return usagef("--kind %q: one of %s", kind, strings.Join(kindNames(), ", "))
			}
			r.Labels = map[string]string{}
			for _, l := range labels {
				k, v, ok := strings.Cut(l, "=")
				if !ok || k == "" {
					return usagef("--label %q: write key=value, such as --label team=payments", l)
				}
				r.Labels[k] = v
			}
			return a.drop(c.Context(), url, r)
		},
	}
	f := c.Flags()
	f.StringVar(&url, "bucket", "", "URL of the region's bucket")
	f.StringVar(&r.Slate, "name", "", "name of the slate")
	f.StringVar(&r.Root, "root", "", "key of its root from the bucket's root")
	f.StringVar(&kind, "kind", "", "log, timeseries, vector, keyvalue, buffer, snapshots or slatedb")
	f.StringVar(&r.Owner, "owner", "", "who is responsible")
	f.StringVar(&r.Contact, "contact", "", "how to reach the owner")
	f.StringVar(&r.Domain, "position-domain", "", "what its positions count, when it is not the kind's own")
	f.StringArrayVar(&labels, "label", nil, "key=value; may be repeated")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(kindNames(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newCatalogDeregister(a *app) *cobra.Command {
	var url string
	r := catalog.Registration{Version: 1, Action: catalog.Deregister}
	c := &cobra.Command{
		Use: "deregister --bucket URL --name N [--root PATH]", Short: "Withdraw a registration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r.Root = strings.Trim(r.Root, "/")
			if r.Slate == "" {
				return usagef("--name NAME is needed: the slate to deregister")
			}
			err := withBucket(c.Context(), url, func(b *bucket.Bucket) error {
				regs, _, err := watch.ReadRegistrations(c.Context(), b)
				if err != nil {
					return err
				}
				standing := standingRoots(regs)
				if r.Root == "" {
					var roots []string
					for root, name := range standing {
						if name == r.Slate {
							roots = append(roots, root)
						}
					}
					slices.Sort(roots)
					switch len(roots) {
					case 0:
						return withCode(exitNotFound, fmt.Errorf("no registration of %q in %s; see `quarry catalog list --bucket %s`", r.Slate, b.URL(), b.URL()))
					case 1:
						r.Root = roots[0]
					default:
						return usagef("%q is registered at %s: say which with --root", r.Slate, strings.Join(roots, " and "))
					}
				}
				if standing[r.Root] != r.Slate {
					return withCode(exitNotFound, fmt.Errorf("no registration of %q at %q in %s", r.Slate, r.Root, b.URL()))
				}
				return nil
			})
			if err != nil {
				return err
			}
			return a.drop(c.Context(), url, r)
		},
	}
	c.Flags().StringVar(&url, "bucket", "", "URL of the region's bucket")
	c.Flags().StringVar(&r.Slate, "name", "", "name of the slate")
	c.Flags().StringVar(&r.Root, "root", "", "its root, when the name is registered at several")
	return c
}

// standingRoots gives the registered slate name by root: the first
// registration of a root stands until it is deregistered.
func standingRoots(regs []catalog.Registration) map[string]string {
	regs = slices.SortedFunc(slices.Values(regs), func(a, b catalog.Registration) int { return strings.Compare(a.ID, b.ID) })
	standing := map[string]string{}
	for _, r := range regs {
		switch name, ok := standing[r.Root]; {
		case r.Action == catalog.Register && !ok:
			standing[r.Root] = r.Slate
		case r.Action == catalog.Deregister && name == r.Slate:
			delete(standing, r.Root)
		}
	}
	return standing
}

// drop puts a declaration into the inbox under a new id.
func (a *app) drop(ctx context.Context, url string, r catalog.Registration) error {
	r.At = time.Now().UTC()
	if err := r.Validate(); err != nil {
		return withCode(exitUsage, err)
	}
	return withBucket(ctx, url, func(b *bucket.Bucket) error {
		id := ulid.Make().String()
		body, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := b.PutNew(ctx, catalog.InboxPrefix+id+".json", body); err != nil {
			return fmt.Errorf("%s %s: %w", r.Action, r.Slate, err)
		}
		r.ID = id
		return a.printObject(r, func() error {
			_, err := fmt.Fprintf(a.out, "%s: %s at %s (%s)%s\n", r.Action, r.Slate, r.Root, id, labelText(r.Labels))
			return err
		})
	})
}

func labelText(labels map[string]string) string {
	var s strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&s, " %s=%s", k, labels[k])
	}
	return s.String()
}

func kindNames() []string {
	var names []string
	for _, k := range catalog.Kinds {
		names = append(names, string(k))
	}
	return names
}

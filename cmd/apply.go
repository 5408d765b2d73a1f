package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// maxDocuments bounds what is read as a file of documents.
const maxDocuments = 1 << 20

// documents reads a file of policies and holds; "-" is standard input.
func (a *app) documents(file string) (name, content string, err error) {
	in := a.in
	if name = file; file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return "", "", err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxDocuments+1))
	if err != nil {
		return "", "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxDocuments {
		return "", "", usagef("%s has more than %d bytes: apply policies file by file", name, maxDocuments)
	}
	return name, string(b), nil
}

// rejected gives a refused file its exit code: the file is wrong (2), or the
// rules do not allow what it says (4).
func (a *app) rejected(err error) error {
	if p, ok := errors.AsType[*apiclient.Problem](err); ok && p.Code == "policy-rejected" {
		return withCode(exitRefused, fmt.Errorf("policy-rejected: %w", err))
	}
	return a.hubError(err)
}

func newApply(a *app) *cobra.Command {
	var file string
	var dry bool
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Put the policies and holds of a file in force", Args: cobra.NoArgs,
		Long: `Puts all policies and holds of a file in force, or none: a field, value or region that is not
known refuses the whole file (exit code 4), says where, and what was in force stays.

Where several policies select a slate the most restrictive wins. A slate that none selects is
left alone. See what a file would change before: quarry policy test -f FILE.`,
		Example: `  quarry apply -f policies.yaml
  quarry get policies -o json | jq -r '.items[].document'   # what is in force, ready to be applied`,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("-f FILE is needed: the documents to apply; - is standard input")
			}
			name, content, err := a.documents(file)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			got, err := cl.Apply(c.Context(), name, content, "", dry)
			if err != nil {
				return a.rejected(err)
			}
			return a.printObject(got, func() error {
				for _, d := range got.Changes {
					would := ""
					if !got.Done && d.Change != "unchanged" {
						would = " (dry run)"
					}
					fmt.Fprintf(a.out, "%s %s %s, revision %d%s\n", kindText(d.Kind), d.Name, d.Change, d.Revision, would)
				}
				a.printWithdrawn(got.Withdrawn)
				return nil
			})
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "file with policies and holds; - is standard input")
	c.Flags().BoolVar(&dry, "dry-run", false, "check against the hub's regions, and change nothing")
	_ = c.MarkFlagFilename("filename", "yaml", "yml")
	return c
}

// printWithdrawn says which permits were taken back, and what owners may have
// done by them.
func (a *app) printWithdrawn(all []apiclient.Withdrawal) {
	for _, w := range all {
		what := "stopped before it left the hub"
		switch {
		case w.Stage == "done" && w.TrimmedTo != nil:
			what = fmt.Sprintf("agents had published it, and the owner has cut up to %d", *w.TrimmedTo)
		case w.Stage == "done":
			what = "agents had published it, and how far the owner has cut is not known"
		case w.Decision != "":
			what = "it was " + w.Stage + ", an agent may have published it"
		}
		fmt.Fprintf(a.out, "withdrawn: %s in %s up to %d (decision %s): %s\n", clean(w.Slate), w.Region, w.UpTo, shortID(w.Permit), what)
	}
}

func kindText(kind string) string {
	if kind == "Hold" {
		return "hold"
	}
	return "policy"
}

// Package cmd is the command line: one file per command. It is the only
// package that knows both hub and agent, and the only one that imports cobra.
//
// Begin with [Execute] and newRoot.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/bucket"
)

// Exit codes (DESIGN §8). Scripts rely on them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitDenied      = 5
	exitUnreachable = 6
	exitPartial     = 7
	exitTimeout     = 8
	exitInterrupted = 130
)

// coded is an error that knows its exit code.
type coded struct {
	code int
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{code, err}
}

func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// exitCode sorts an error into the documented codes.
func exitCode(err error) int {
	var c *coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, apiclient.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return exitTimeout
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, fs.ErrPermission):
		return exitDenied
	case errors.Is(err, bucket.ErrNoBucket), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	}
	return exitError
}

// app is what the commands share: where output goes and the global flags.
type app struct {
	out, err io.Writer
	in       io.Reader

	context string
	hub     string
	output  string
	noColor bool
	as      string
	within  time.Duration
}

// Execute runs one command line and returns the process's exit code.
func Execute(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Libraries speak to the standard logger of things nobody here can act on
	// (net/http of an answer it did not expect); what we say goes by other ways.
	log.SetOutput(io.Discard)
	a := &app{out: os.Stdout, err: os.Stderr, in: os.Stdin}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	err := mayHook(os.Environ())
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if code == exitInterrupted {
		return code
	}
	if text := strings.TrimSpace(err.Error()); text != "" {
		fmt.Fprintf(a.err, "quarry: %s\n", text)
	}
	return code
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "quarry",
		Short: "See and guard every SlateDB and OpenData database of every region",
		Long: `Quarry shows every database that lives in object storage, in every region:
who owns and reads it, how fresh it is, what can be restored, and how far
its history may be cut; and it has cut what policies permit.

  quarry demo                    hub and three regions on local folders, to look around
  quarry get slates              every database the hub knows
  quarry describe slate NAME     all about one
  quarry explain trim NAME       how far its history may be cut, or what holds it back
  quarry get decisions           what the agents were asked to do, and what came of it
  quarry slatedb verify ROOT     look at any SlateDB database, no hub needed

Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 refused by a rule or a precondition,
5 not permitted, 6 hub unreachable, 7 partial or not fresh enough, 8 timed out,
130 interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		// How to say it is settled before anything is done.
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkOutput() },
	}
	pf := root.PersistentFlags()
	pf.StringVar(&a.context, "context", "", "context of the configuration file to use")
	pf.StringVar(&a.hub, "hub", "", "hub's web address, such as http://127.0.0.1:7700 (or QUARRY_HUB)")
	pf.StringVarP(&a.output, "output", "o", "table", "table, wide, json, yaml or name")
	pf.DurationVar(&a.within, "request-timeout", 30*time.Second, "how long the hub may take to begin an answer")
	pf.StringVar(&a.as, "as", "", "who you are, for the record (or QUARRY_USER); taken on trust, for there is no authentication yet")
	pf.BoolVar(&a.noColor, "no-color", false, "no colour, even on a terminal")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see '%s --help'", err, c.CommandPath())
	})
	root.AddCommand(
		newVersion(a), newDemo(a), newHub(a), newAgent(a),
		newGet(a), newDescribe(a), newSummary(a), newEvents(a), newAudit(a),
		newSlateDB(a), newCatalog(a), newRegion(a), newForget(a), newDoctor(a),
		newApply(a), newPolicy(a), newExplain(a), newTrim(a), newPrune(a), newArchives(a), newHold(a), newRelease(a), newFreeze(a), newThaw(a),
		newApprove(a), newRefuse(a), newBreaker(a),
		newConfig(a), newLoadgen(a),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || about == nil || len(rest) > 0 {
					return usagef("no help on %q: there is no such command; see 'quarry --help'", strings.Join(args, " "))
				}
				return about.Help()
			}
		}
	}
	groups(root)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		c, err := loadContexts()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.names(), cobra.ShellCompDirectiveNoFileComp
	})
	return root
}

// groups makes every command that only holds others, and every argument
// check, fail as a usage error with what to do.
func groups(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usagef("%w; usage: %s", err, c.UseLine())
			}
			return nil
		}
	}
	if c.Run == nil && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			c.SuggestionsMinimumDistance = 2
			hint := fmt.Sprintf("see '%s --help'", c.CommandPath())
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				hint = "did you mean " + strings.Join(s, " or ") + "?"
			}
			return usagef("unknown command %q for %q; %s", args[0], c.CommandPath(), hint)
		}
	}
	for _, sub := range c.Commands() {
		groups(sub)
	}
}

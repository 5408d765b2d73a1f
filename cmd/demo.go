package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/agent"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func newDemo(a *app) *cobra.Command {
	var dir, listen, agentListen string
	var keep bool
	var logs logFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Hub and three regions in one process on local folders, with real slates",
		Long: `Starts a hub and the agents of three regions in one process. Each region is a folder with
databases that real SlateDB, OpenData and Restate wrote; one of them is played back, step
by step, so that there is something to watch. It serves where the command line looks by
default, and removes its folder when it ends.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logs.logger(a.err)
			if err != nil {
				return err
			}
			cfg := defaultHubConfig()
			cfg.Listen, cfg.AgentListen, cfg.Beat = listen, agentListen, time.Second
			if err := cfg.validate(); err != nil {
				return err
			}
			ctx := c.Context()
			if dir == "" {
				if dir, err = os.MkdirTemp("", "quarry-demo-"); err != nil {
					return err
				}
				if !keep {
					defer os.RemoveAll(dir)
				}
			} else {
				if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
					return usagef("--dir %s is not empty; name an empty or a new folder", dir)
				}
				keep = true
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			var names []string
			for _, r := range demoRegions {
				names = append(names, r.name)
				at := filepath.Join(dir, r.name)
				if err := r.layOut(at); err != nil {
					return err
				}
				if err := r.declare(ctx, at); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(dir, demoPolicyFile), []byte(demoPolicy), 0o644); err != nil {
				return err
			}
			g, ctx := errgroup.WithContext(ctx)
			up := make(chan [2]string, 1)
			cfg.Regions = names
			cfg.Store = "file://" + filepath.ToSlash(filepath.Join(dir, "hub")) + "?create=true"
			g.Go(func() error { return runHub(ctx, cfg, log, func(web, agents string) { up <- [2]string{web, agents} }) })
			g.Go(func() error {
				var at [2]string
				select {
				case at = <-up:
				case <-ctx.Done():
					return nil
				}
				for _, r := range demoRegions {
					ac := defaultAgent()
					ac.Region, ac.Cluster, ac.Hub, ac.Version = r.name, r.name+"-1", at[1], buildVersion()
					ac.Bucket, ac.Discover = "file://"+filepath.ToSlash(filepath.Join(dir, r.name)), []string{""}
					g.Go(func() error { return agent.Run(ctx, ac, log) })
				}
				g.Go(func() error { return playHistory(ctx, filepath.Join(dir, demoRegions[0].name), 2*time.Second) })
				return a.introduce(ctx, "http://"+at[0], dir, keep)
			})
			err = g.Wait()
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "folder to use and keep; default: a temporary one")
	f.BoolVar(&keep, "keep", false, "keep the folder at the end")
	f.StringVar(&listen, "listen", "127.0.0.1:7700", "web API's address")
	f.StringVar(&agentListen, "agent-listen", "127.0.0.1:7701", "agents' address")
	logs.register(f)
	_ = f.Set("log-level", "warn")
	return c
}

// invoked is how this program was called, so that what it prints can be pasted:
// by its path, or by its name when the shell found it.
func invoked() string {
	if strings.Contains(os.Args[0], "/") {
		return os.Args[0]
	}
	return "quarry"
}

// declare drops the registrations of the region's owners into its inbox.
func (r demoRegion) declare(ctx context.Context, dir string) error {
	b, err := bucket.Open(ctx, "file://"+filepath.ToSlash(dir))
	if err != nil {
		return err
	}
	defer b.Close()
	for _, d := range r.register {
		key, value, _ := strings.Cut(d.label, "=")
		reg := catalog.Registration{
			Version: 1, Action: catalog.Register, Slate: d.name, Root: d.root, Kind: catalog.Kind(d.kind),
			Owner: d.owner, Labels: map[string]string{key: value}, At: time.Now().UTC(),
		}
		if err := reg.Validate(); err != nil {
			return err
		}
		body, err := json.Marshal(reg)
		if err != nil {
			return err
		}
		if err := b.PutNew(ctx, catalog.InboxPrefix+ulid.Make().String()+".json", body); err != nil {
			return err
		}
	}
	return nil
}

// introduce waits until the regions are in and says what to try.
func (a *app) introduce(ctx context.Context, url, dir string, keep bool) error {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) && !allConnected(ctx, url) {
		if !sleep(ctx, 200*time.Millisecond) {
			return nil
		}
	}
	hub := ""
	if url != defaultHub {
		hub = " --hub " + url
	}
	what := "removed when this ends (ctrl-c)"
	if keep {
		what = "kept when this ends (ctrl-c)"
	}
	us := filepath.ToSlash(filepath.Join(dir, demoRegions[0].name))
	quarry, where := invoked(), ""
	if strings.HasPrefix(quarry, ".") {
		where = ", in this folder"
	}
	lines := []struct{ command, shows string }{
		{quarry + " get slates" + hub, "every database of every region"},
		{quarry + " get slates --watch" + hub, "one of them, live, moves"},
		{quarry + " describe slate logs/orders" + hub, "one name in two regions: two different databases"},
		{quarry + " get restore-points --filter 'slate = \"archive/0\"'" + hub, "eu-west lags behind us-east"},
		{quarry + " apply -f " + filepath.Join(dir, demoPolicyFile) + hub, "so its log may be cut as far as eu-west can restore, and no further"},
		{quarry + " explain trim archive/0" + hub, ""},
		{quarry + " get decisions --watch" + hub, "what the hub decided, and what the agents did"},
		{quarry + " summary --by region,kind" + hub, ""},
		{quarry + " events --watch" + hub, ""},
		{quarry + " slatedb verify --checksums --bucket file://" + us + " clone", "no hub needed"},
		{"curl -s '" + url + "/v1/placements?filter=kind%3Dlog&fields=region,slate,position'", ""},
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\nThree regions are up, on folders in %s (%s).\n", dir, what)
	fmt.Fprintf(&s, "Their databases were written by real SlateDB, OpenData and Restate. In another terminal%s:\n\n", where)
	for _, l := range lines {
		if l.shows != "" {
			fmt.Fprintf(&s, "  # %s\n", l.shows)
		}
		fmt.Fprintf(&s, "  %s\n", l.command)
	}
	fmt.Fprintf(&s, "\nThe web API is %s/v1, described at %s/openapi.json.\n", url, url)
	_, err := a.out.Write([]byte(s.String()))
	return err
}

func allConnected(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/regions", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var l struct {
		Items []catalog.Region `json:"items"`
	}
	if json.NewDecoder(resp.Body).Decode(&l) != nil || len(l.Items) == 0 {
		return false
	}
	for _, r := range l.Items {
		if r.State != catalog.RegionConnected || r.Placements == 0 {
			return false
		}
	}
	return true
}

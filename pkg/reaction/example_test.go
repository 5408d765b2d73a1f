package reaction_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/reaction"
)

// Both regions are looked at at once; only when both are whole is the pointer
// moved, and a busy store is asked three times.
func Example() {
	look := func(region string) *reaction.Step {
		return reaction.Do("look at "+region, func(context.Context) (reaction.Result, error) { return reaction.Result{}, nil })
	}
	busy := 1
	move := reaction.Do("move the pointer", func(context.Context) (reaction.Result, error) {
		if busy--; busy >= 0 {
			return reaction.Result{}, fmt.Errorf("503 slow down")
		}
		return reaction.Result{Again: true, After: time.Minute}, nil
	})
	r := reaction.Sequential("cut archive/0",
		reaction.Join("verify", look("eu"), look("us")),
		reaction.Timeout(10*time.Second, reaction.Retry(3, time.Millisecond, move)),
		reaction.Do("delete data", nil),
	).Run(context.Background())

	fmt.Println(r.Err, r.Again, r.After)
	for line := range strings.Lines(r.Tree.String()) {
		fmt.Println(strings.Split(line, ",")[0]) // without the times
	}
	// Output:
	// <nil> true 1m0s
	// cut archive/0 (in turn until one fails): again in 1m0s
	// ├─ verify (all at once): done
	// │  ├─ look at eu: done
	// │  └─ look at us: done
	// ├─ within 10s: again in 1m0s
	// │  └─ up to 3 times: again in 1m0s
	// │     └─ move the pointer: again in 1m0s
	// └─ delete data: not run
}

//go:build !testhooks

package cmd

import (
	"strings"

	"github.com/quarry-db/quarry/hub/state"
)

// mayHook refuses what only builds for tests may be asked to do (-tags
// testhooks): a clock that is wrong, a process that kills itself.
func mayHook(environ []string) error {
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "QUARRY_TEST_") {
			return usagef("%s is set: it is for tests, and this quarry was not built for them; unset it", name)
		}
	}
	return nil
}

func hookState(c state.Config) state.Config { return c }

//go:build testhooks

package cmd

import (
	"os"
	"time"

	"github.com/quarry-db/quarry/hub/state"
)

// mayHook lets builds for tests be asked by the environment: QUARRY_TEST_GATE
// (pkg/bucket), QUARRY_TEST_EFFECT_WITHIN here, and QUARRY_TEST_CLOCK where the
// build has replaced the clock as well.
func mayHook([]string) error { return nil }

// hookState makes the hub impatient.
func hookState(c state.Config) state.Config {
	if text := os.Getenv("QUARRY_TEST_EFFECT_WITHIN"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(err)
		}
		c.EffectWithin = d
	}
	return c
}

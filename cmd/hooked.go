//go:build testhooks

package cmd

import (
	"os"
	"strconv"
	"time"

	"github.com/quarry-db/quarry/hub/state"
)

// mayHook lets builds for tests be asked by the environment: QUARRY_TEST_GATE
// (pkg/bucket), QUARRY_TEST_EFFECT_WITHIN and QUARRY_TEST_SLATE_HOUR here, and QUARRY_TEST_CLOCK where the
// build has replaced the clock as well.
func mayHook([]string) error { return nil }

// hookState makes the hub impatient, or lets it do more in an hour.
func hookState(c state.Config) state.Config {
	if text := os.Getenv("QUARRY_TEST_EFFECT_WITHIN"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(err)
		}
		c.EffectWithin = d
	}
	if text := os.Getenv("QUARRY_TEST_SLATE_HOUR"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		c.Budgets.SlateHour = n
	}
	return c
}

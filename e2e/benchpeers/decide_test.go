package main

import (
	"testing"
)

// The rule as SQL gives every slate the floor that regions/plan gives it, in
// both forms, under two policies and after changes.
func TestTheRuleIsTheSameAsSQL(t *testing.T) {
	err := measureDecide(t.Context(), options{decide: 3000, rounds: 2, seed: 3, command: "go test"})
	if isAbsent(err) {
		t.Skip("SKIPPED, the rule is not compared with SQL: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

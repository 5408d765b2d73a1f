//go:build !race

package duty

const raced = false

//go:build e2e

package link

func init() { cutsEach = max(cutsEach, 125) }

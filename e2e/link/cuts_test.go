//go:build e2e

package link

func init() { cutsEach = 125 }

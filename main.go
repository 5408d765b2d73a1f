// Quarry: a federation control plane for databases that live in object storage.
package main

import (
	"os"

	"github.com/quarry-db/quarry/cmd"
)

func main() { os.Exit(cmd.Execute(os.Args[1:])) }

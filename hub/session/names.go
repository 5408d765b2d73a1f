package session

import (
	"fmt"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// checkName checks the name of a region or a cluster.
func checkName(name string) error {
	if err := catalog.CheckName(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") || len(name) > 253 {
		return fmt.Errorf("name %.300q: at most 253 bytes and no \"/\": %w", name, catalog.ErrInvalid)
	}
	return nil
}

// clip bounds a text that an agent wrote for people.
func clip(s string) string {
	const most = 4 << 10
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}

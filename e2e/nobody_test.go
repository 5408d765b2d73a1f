//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"syscall"
)

// asNobody runs a command as a user who owns nothing, when we are root, to
// whom no file is forbidden.
func asNobody(c *exec.Cmd) {
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

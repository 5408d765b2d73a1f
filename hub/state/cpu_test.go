package state_test

import (
	"syscall"
	"time"
)

// onCPU is what this process has spent on cores: on a machine with other work it
// says more than the clock.
func onCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

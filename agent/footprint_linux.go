package agent

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// releaseProgram lets go of the program's own code and constants. They are in
// its file and are mapped again, page by page, as they are used. The kernel maps
// sixteen pages for each one that is touched, and every package's start touches
// some, so a program of 55 MB that uses 10 counts as one of 40 until then. Data
// that may have been written is left alone: what a mapping has besides its file
// is asked of the kernel, never assumed.
func releaseProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var from, to uintptr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		switch fields := strings.Fields(line); {
		case len(fields) >= 6 && strings.Contains(fields[0], "-"):
			from, to = 0, 0
			if readOnly := fields[1] == "r-xp" || fields[1] == "r--p"; readOnly && fields[5] == exe {
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
					return
				}
			}
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && to > from:
			// Advice that is not taken changes nothing.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}

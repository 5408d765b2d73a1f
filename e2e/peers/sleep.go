package peers

import "syscall"

// Sleep stops the process without its knowledge (SIGSTOP), as a machine that is
// paused or swaps does.
func (p *Peer) Sleep() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
}

// Wake lets it go on.
func (p *Peer) Wake() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		p.t.Fatal(err)
	}
}

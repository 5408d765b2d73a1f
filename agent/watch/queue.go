package watch

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// task is something done again and again. One runs at most once at a time.
type task struct {
	// do does it and says after how long it is due again; less than zero:
	// never.
	do func(ctx context.Context) time.Duration

	// The queue's, under its lock.
	due     time.Time
	at      int // place in the heap, -1: not in it
	running bool
	hurried bool // while it was running
	// waiting are told when a run that begins from now on has ended, serving
	// when the one under way has.
	waiting, serving []chan struct{}
}

// queue runs tasks when they are due, the longest overdue first: when there is
// more to do than can be done everything is late alike and nothing starves.
type queue struct {
	mu    sync.Mutex
	tasks byDue
	moved chan struct{} // something is due earlier; newest wins, poked once
	late  time.Duration // how late the last task began
}

func newQueue() *queue { return &queue{moved: make(chan struct{}, 1)} }

// put adds a task, due after a while.
func (q *queue) put(t *task, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.due = time.Now().Add(after)
	heap.Push(&q.tasks, t)
	q.poke()
}

// hurry makes a task due now; one that is running runs once more.
func (q *queue) hurry(t *task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch now := time.Now(); {
	case t.running:
		t.hurried = true
	case t.at >= 0 && t.due.After(now):
		t.due = now
		heap.Fix(&q.tasks, t.at)
		q.poke()
	}
}

// ask makes a task due now, and gives what is closed when a run that began after
// the call has ended. A task that has left the queue never has one.
func (q *queue) ask(t *task) <-chan struct{} {
	served := make(chan struct{})
	q.mu.Lock()
	t.waiting = append(t.waiting, served)
	q.mu.Unlock()
	q.hurry(t)
	return served
}

func (q *queue) poke() {
	select {
	case q.moved <- struct{}{}:
	default:
	}
}

// lateness is how late the last task began, and those that are due now.
func (q *queue) lateness() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	late := q.late
	if len(q.tasks) > 0 {
		late = max(late, time.Since(q.tasks[0].due))
	}
	return late
}

// run does tasks with so many workers until ctx is over and they are back.
func (q *queue) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	work := make(chan *task)
	for range workers {
		wg.Go(func() {
			for t := range work {
				q.done(t, t.do(ctx))
			}
		})
	}
	defer wg.Wait()
	defer close(work)
	for {
		t, wait := q.next()
		if t == nil {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-q.moved:
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return
			}
			continue
		}
		select {
		case work <- t:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first task if it is due, else says how long to wait.
func (q *queue) next() (*task, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.tasks) == 0 {
		return nil, time.Hour
	}
	if wait := time.Until(q.tasks[0].due); wait > 0 {
		q.late = 0
		return nil, wait
	}
	t := heap.Pop(&q.tasks).(*task)
	t.running, t.hurried = true, false
	t.serving, t.waiting = t.waiting, nil
	q.late = time.Since(t.due)
	return t, 0
}

func (q *queue) done(t *task, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.running = false
	for _, served := range t.serving {
		close(served)
	}
	t.serving = nil
	if after < 0 {
		return
	}
	if t.hurried {
		after = 0
	}
	t.due = time.Now().Add(after)
	heap.Push(&q.tasks, t)
	q.poke()
}

// byDue is a heap.
type byDue []*task

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *byDue) Push(x any) {
	t := x.(*task)
	t.at = len(*h)
	*h = append(*h, t)
}
func (h *byDue) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.at = -1
	return t
}

package state

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// session is one agent's stream.
type session struct {
	id      SessionID
	region  *region
	cluster *cluster
	start   uint64
	agent   string

	bucketID, bucketWhy string
	bucket              string

	beaten  bool
	heardAt time.Duration
	// slots are its placements by the ordinals that it gave them.
	slots []table.Slot
	// synced: a snapshot of it was applied, or it resumed: its deltas count.
	synced  bool
	behind  catalog.Revision // what was applied when a beat last said that more was told
	obeys   Obeys
	decides bool   // it understands decisions
	wanted  string // why a snapshot of it is wanted when its turn comes
}

// cluster is one cluster of a region and who holds it.
type cluster struct {
	name       string
	region     *region
	generation uint64
	agent      string
	session    *session // nil: closed
	heardAt    time.Duration
	everHeard  bool
	row        catalog.Cluster
}

// States of clusters.
const (
	clusterReporting = "reporting"
	clusterStandby   = "standby"
	clusterSilent    = "silent"
)

func (s *State) hello(e Hello) {
	if s.sessions[e.Session] != nil {
		return
	}
	r := s.regions[e.Region]
	switch {
	case r == nil:
		s.refuse(e, fmt.Sprintf("region %q is not in this hub's region set (%s): start the agent with --region of one of them, or begin a hub on an empty store with --regions that name it",
			e.Region, strings.Join(s.names, ", ")))
		return
	case s.set.Get(r.name).Membership == catalog.Retired:
		s.refuse(e, fmt.Sprintf("region %s is retired: stop its agents", r.name))
		return
	case catalog.CheckName(e.Cluster) != nil || strings.Contains(e.Cluster, "/") || len(e.Cluster) > 253:
		s.refuse(e, fmt.Sprintf("cluster %q: a printable name of at most 253 bytes without '/'", e.Cluster))
		return
	}
	c := r.clusters[e.Cluster]
	if c == nil {
		c = &cluster{name: e.Cluster, region: r}
		r.clusters[e.Cluster] = c
	}
	// The one who is here stays while it is heard; only a newer generation
	// takes its place. So two holders of one identity do not take turns.
	alive := c.everHeard && s.listened-c.heardAt < s.cfg.StaleAfter
	if alive && (e.Generation < c.generation || e.Generation == c.generation && e.Agent != c.agent) {
		why := fmt.Sprintf("%s of region %s is held by agent %s of generation %d; %s of generation %d is older: stop one of them",
			e.Cluster, r.name, c.agent, c.generation, firstOf(e.Agent, "this agent"), e.Generation)
		s.refuse(e, why)
		s.noteCluster(c, why)
		return
	}
	reports := r.reporter == nil
	if old := c.session; old != nil && old.id > e.Session {
		// Hellos of a herd may overtake each other on their way here; only
		// within one cluster does their order say which is of the past.
		s.send(e.Session, Refuse{Why: "the same agent has opened a newer session"})
		return
	} else if old != nil {
		reports = reports || r.reporter == old
		if old.agent != e.Agent {
			why := fmt.Sprintf("%s of region %s was taken over by agent %s of generation %d", e.Cluster, r.name, e.Agent, e.Generation)
			s.tellRefused(r.name, old.agent, why)
			s.send(old.id, Refuse{Why: why})
		} else {
			s.send(old.id, Refuse{Why: "the same agent has opened a newer session"})
		}
		s.drop(old)
	}
	p := &session{
		id: e.Session, region: r, cluster: c, start: e.Start, agent: e.Agent,
		bucketID: e.BucketID, bucketWhy: e.BucketWhy, bucket: e.Bucket, heardAt: s.mono,
		obeys: e.Obeys, decides: e.Decides,
	}
	s.sessions[p.id] = p
	c.session, c.generation, c.agent, c.heardAt, c.everHeard = p, e.Generation, e.Agent, s.mono, true
	c.row = catalog.Cluster{Name: c.name, Region: r.name, Agent: e.Agent, Version: e.Version, HeardAt: c.row.HeardAt}
	if !e.StartedAt.IsZero() {
		started := e.StartedAt.UTC()
		c.row.Started = &started
	}
	if reports {
		s.report(r, p)
	} else {
		s.send(p.id, Welcome{BucketID: s.set.Get(r.name).BucketID, Beat: s.cfg.Beat, Spread: s.cfg.Spread})
	}
	s.stirred[r.name] = true
	s.showCluster(c)
	s.tellAgain(p)
}

// report makes a session the one that brings the region's facts.
func (s *State) report(r *region, p *session) {
	r.reporter = p
	r.bucket = p.bucket
	r.confirmed, r.owed = false, false
	// Of a time when it reported before: others may lie there by now.
	p.slots = nil
	was := r.mismatch
	if p.bucketID != "" {
		r.blind = ""
		r.mismatch = "" // what the last reporter said is judged anew
		s.checkBucket(r, p.bucketID, "", true)
	}
	// An agent that cannot name its bucket yet may only not have looked: its
	// first beat says what is so. Until then what was so stays, and its facts
	// wait ([State.proven]).
	r.unjudged = p.bucketID == ""
	if was != "" && r.mismatch == "" {
		r.applied = catalog.Revision{}
	}
	// Nothing is resumed across starts of agents.
	p.synced = r.mismatch == "" && r.applied.Counter > 0 && r.applied.Start == p.start
	if !p.synced {
		r.applied = catalog.Revision{}
	}
	s.welcome(r, p)
	s.stirred[r.name] = true
}

func (s *State) welcome(r *region, p *session) {
	w := Welcome{Reporter: true, BucketID: s.set.Get(r.name).BucketID, Beat: s.cfg.Beat, Spread: s.cfg.Spread}
	if p.synced {
		w.Resume = r.applied
	} else if now, ahead := s.admit(p.id); !now {
		w.Wait, w.Ahead = true, ahead
	}
	s.send(p.id, w)
}

func (s *State) beat(e Beat) {
	p := s.sessions[e.Session]
	if p == nil {
		return
	}
	r, c := p.region, p.cluster
	p.beaten, p.heardAt = true, s.mono
	c.heardAt, c.everHeard = s.mono, true
	at := s.wall
	c.row.HeardAt = &at
	if !e.AgentClock.IsZero() {
		skew := e.AgentClock.Sub(s.wall).Milliseconds()
		c.row.ClockSkewMS = &skew
	}
	p.bucketID, p.bucketWhy = e.BucketID, e.BucketWhy
	p.obeys = e.Obeys
	s.progress(p.id, e.Staged)
	if r.reporter == p {
		r.heard, r.heardAt, r.heardSay = true, s.mono, s.wall
		r.cannotKeep, r.spend, r.budget = e.CannotKeep, e.Spend, e.Budget
		r.blind = ""
		if !e.ReadOK {
			r.blind = regionBlind + ": " + firstOf(e.Reason, "the agent cannot read its bucket")
		}
		if r.unjudged {
			r.unjudged, r.mismatch = false, "" // what the last reporter said is judged anew
		}
		s.checkBucket(r, e.BucketID, e.BucketWhy, e.ReadOK)
		if r.owed && r.blind == "" && s.proven(r, p) {
			r.owed = false
			s.want(r, "the bucket can be read again")
		}
		if !p.synced && (e.At.Counter > 0 || e.Digest != ([32]byte{})) && r.blind == "" && s.proven(r, p) && s.idle(p.id) {
			// It says that it has told everything, and nothing came.
			s.want(r, "what was told did not arrive")
		}
		if p.synced && s.proven(r, p) && r.blind == "" {
			s.missed(r, p, e)
		}
		if p.synced && s.proven(r, p) && r.blind == "" && r.caughtUp(e.At) && !s.drifted(r, e) {
			r.confirmed, r.confirmedAt = true, s.mono
			r.asOf = &at
			if !r.snapped && e.Digest != ([32]byte{}) {
				// Everything since the saved view was told, and nothing else.
				r.snapped = true
				s.recollect(r)
			}
		}
	}
	s.stirred[r.name] = true
	s.showCluster(c)
}

// proven reports whether the reporter's bucket is the one that is known. Until
// it is, its facts say nothing about this region.
func (s *State) proven(r *region, p *session) bool {
	known := s.set.Get(r.name).BucketID
	return r.mismatch == "" && (known == "" || p.bucketID == known)
}

// caughtUp reports whether everything that the agent had sent at a beat is in
// the rows. An agent that has told nothing yet sends the zero revision.
func (r *region) caughtUp(at catalog.Revision) bool {
	return at == (catalog.Revision{}) || at.Start == r.applied.Start && at.Compare(r.applied) <= 0
}

func (s *State) closed(e Closed) {
	p := s.sessions[e.Session]
	if p == nil {
		return
	}
	r := p.region
	reported := r.reporter == p
	s.drop(p)
	if reported {
		s.promote(r)
	}
	s.stirred[r.name] = true
	s.showCluster(p.cluster)
}

// drop forgets a session: nothing that it still sends is heard.
func (s *State) drop(p *session) {
	delete(s.sessions, p.id)
	s.done(p.id)
	if p.cluster.session == p {
		p.cluster.session = nil
	}
	if p.region.reporter == p {
		p.region.reporter = nil
	}
}

// promote makes the longest-connected standby that is still heard the
// reporter, if there is one.
func (s *State) promote(r *region) {
	var best *session
	for _, n := range sortedKeys(r.clusters) {
		p := r.clusters[n].session
		if p == nil || p == r.reporter || s.listened-p.heardAt >= s.cfg.StaleAfter {
			continue
		}
		if best == nil || p.id < best.id {
			best = p
		}
	}
	if best == nil {
		return
	}
	s.report(r, best)
	s.showCluster(best.cluster)
}

// relieve replaces a reporter that has fallen silent by a standby that has
// not, and lets go of sessions that nobody hears of any more.
func (s *State) relieve(r *region) {
	if p := r.reporter; p != nil && s.listened-p.heardAt >= s.cfg.StaleAfter {
		heard := func(n string) bool {
			o := r.clusters[n].session
			return o != nil && o != p && o.beaten && s.listened-o.heardAt < s.cfg.SuspectAfter
		}
		if slices.ContainsFunc(sortedKeys(r.clusters), heard) {
			r.reporter = nil
			s.send(p.id, Welcome{BucketID: s.set.Get(r.name).BucketID, Beat: s.cfg.Beat, Spread: s.cfg.Spread})
			s.promote(r)
		}
	}
	for _, n := range sortedKeys(r.clusters) {
		s.showCluster(r.clusters[n])
	}
}

// refuse ends a session before it began.
func (s *State) refuse(e Hello, why string) {
	s.send(e.Session, Refuse{Why: why})
	s.tellRefused(e.Region, e.Agent, why)
}

// tellRefused puts a refusal into the event log, once per agent: whoever is
// refused tries again.
func (s *State) tellRefused(region, agent, why string) {
	e := catalog.Event{Type: catalog.EventAgentRefused, What: why, After: agent}
	if s.regions[region] != nil {
		e.Region = region
	}
	k := refusedKey(e.Region, agent)
	if s.refused[k] || len(s.refused) > 10_000 {
		return
	}
	s.refused[k] = true
	s.emit(e)
}

// refusedKey is what a refusal is remembered by; the event log has it too, so
// that a restarted hub does not tell it again.
func refusedKey(region, agent string) string { return region + "\x00" + agent }

func (s *State) noteCluster(c *cluster, why string) {
	c.row.Reason = why
	s.showCluster(c)
}

func (s *State) showCluster(c *cluster) {
	row := c.row
	row.Name, row.Region = c.name, c.region.name
	switch {
	case c.session == nil || s.listened-c.session.heardAt >= s.cfg.StaleAfter:
		row.State = clusterSilent
	case c.region.reporter == c.session:
		row.State = clusterReporting
	default:
		row.State = clusterStandby
	}
	old := s.b.Cluster(row.Region, row.Name)
	if old == nil {
		s.b.SetCluster(&row, false)
		return
	}
	sameTime := func(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }
	same := old.State == row.State && old.Agent == row.Agent && old.Version == row.Version && old.Reason == row.Reason && sameTime(old.Started, row.Started)
	if same && sameTime(old.HeardAt, row.HeardAt) {
		return
	}
	s.b.SetCluster(&row, same)
}

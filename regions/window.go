package regions

import (
	"fmt"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
)

// Window allows actions at certain times, or denies them between two moments.
// A slate's actions are open when no window denies them and, where any window
// speaks of allowing them, one of those is open.
type Window struct {
	Allow []Action `yaml:"allow" json:"allow,omitempty"`
	Deny  []Action `yaml:"deny" json:"deny,omitempty"`
	// Cron says when an allowing window opens, in the five usual fields; it
	// stays open for For, an hour when that is not given.
	Cron string   `yaml:"cron" json:"cron,omitempty"`
	For  Duration `yaml:"for" json:"for,omitempty"`
	TZ   string   `yaml:"tz" json:"tz,omitempty"` // of Cron and of days in From and To; UTC
	// From and To are days (the last included) or moments.
	From   string `yaml:"from" json:"from,omitempty"`
	To     string `yaml:"to" json:"to,omitempty"`
	Reason string `yaml:"reason" json:"reason,omitempty"`

	schedule cron.Schedule
	zone     *time.Location
	from, to time.Time // to is the first moment after
}

var cronFields = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// check parses what the window says. The field it returns is the wrong one.
func (w *Window) check() (field string, err error) {
	if w.zone, err = time.LoadLocation(w.TZ); err != nil {
		return "tz", fmt.Errorf("%q: a zone such as Europe/Berlin: %w", w.TZ, ErrInvalid)
	}
	switch {
	case len(w.Allow) > 0 == (len(w.Deny) > 0):
		return "", fmt.Errorf("either allow or deny actions, as in {allow: [trim], cron: \"0 1-5 * * *\"}: %w", ErrInvalid)
	case len(w.Deny) > 0 && w.Cron != "":
		return "cron", fmt.Errorf("a window that denies lies between from and to: %w", ErrInvalid)
	case w.Cron == "" && w.From == "" && w.To == "":
		return "", fmt.Errorf("say when: with cron, or with from and to: %w", ErrInvalid)
	case w.Cron == "" && w.For != 0:
		return "for", fmt.Errorf("how long a window stays open that cron opens: %w", ErrInvalid)
	}
	if w.Cron != "" {
		if w.schedule, err = cronFields.Parse(w.Cron); err != nil {
			return "cron", fmt.Errorf("%q: five fields as in \"0 1-5 * * 1-5\": %w: %w", w.Cron, err, ErrInvalid)
		}
	}
	if w.from, err = w.moment(w.From, false); err != nil {
		return "from", err
	}
	if w.to, err = w.moment(w.To, true); err != nil {
		return "to", err
	}
	if !w.from.IsZero() && !w.to.IsZero() && !w.from.Before(w.to) {
		return "to", fmt.Errorf("%s is not after %s: %w", w.To, w.From, ErrInvalid)
	}
	return "", nil
}

// moment reads a day or a moment; the end of a day when that is asked for.
func (w *Window) moment(s string, end bool) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, w.zone); err == nil {
		if end {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q: a day such as 2026-12-20 or a moment such as 2026-12-20T18:00:00Z: %w", s, ErrInvalid)
	}
	return t, nil
}

// open reports whether now lies in the window.
func (w *Window) open(now time.Time) bool {
	if !w.from.IsZero() && now.Before(w.from) || !w.to.IsZero() && !now.Before(w.to) {
		return false
	}
	if w.schedule == nil {
		return true
	}
	length := time.Duration(w.For)
	if length == 0 {
		length = time.Hour
	}
	// It is open when it opened within its length before now.
	opened := w.schedule.Next(now.In(w.zone).Add(-length))
	return !opened.IsZero() && !opened.After(now)
}

func speaksOf(list []Action, a Action) bool {
	return slices.Contains(list, a) || slices.Contains(list, ActionAll)
}

// Open reports whether the policy's windows allow an action at a time; why is
// for people when they do not.
func (p *Policy) Open(a Action, now time.Time) (ok bool, why string) {
	allowing, open := "", false
	for i := range p.Windows {
		w := &p.Windows[i]
		switch {
		case speaksOf(w.Deny, a) && w.open(now):
			why := "denied"
			if w.To != "" {
				why += " to " + w.To
			}
			if w.Reason != "" {
				why += ": " + w.Reason
			}
			return false, why
		case speaksOf(w.Allow, a):
			open = open || w.open(now)
			if allowing != "" {
				allowing += ", "
			}
			allowing += w.when()
		}
	}
	if allowing != "" && !open {
		return false, "allowed only at " + allowing
	}
	return true, ""
}

func (w *Window) when() string {
	if w.Cron == "" {
		return w.From + " to " + w.To
	}
	zone := w.TZ
	if zone == "" {
		zone = "UTC"
	}
	return w.Cron + " " + zone
}

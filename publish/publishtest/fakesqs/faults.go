package fakesqs

import (
	"net/http"
	"time"
)

// Fault makes matching requests fail. The first one that matches applies.
type Fault struct {
	// Action and Queue (its name) say which requests; empty means any.
	Action, Queue string
	// When, if set, must also hold.
	When func(Request) bool
	// Times is how many requests it applies to; 0 means until Heal.
	Times int

	// Delay is waited before anything else, or until the client is gone.
	Delay time.Duration
	// CutBefore closes the connection before the request is handled, CutAfter
	// after it was handled and before it is answered: the answer is lost.
	CutBefore, CutAfter bool
	// Error is the answer to the whole request, which is not handled.
	Error *Error
	// EntryError, where it returns an error, refuses an entry of a batch.
	EntryError func(Entry) *Error
	// Omit, where it reports true, accepts an entry of a batch and leaves it out
	// of the answer.
	Omit func(Entry) bool
	// Body replaces the body of the answer, with status 200 and nothing handled.
	Body string
	// Corrupt makes the answer name a wrong MD5 for the entries it reports true for.
	Corrupt func(Entry) bool
}

type fault struct {
	Fault
	left int
}

// Inject adds a fault.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{Fault: f, left: f.Times})
}

// Heal removes the faults of a queue; "" removes all.
func (s *Server) Heal(queue string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []*fault
	for _, f := range s.faults {
		if queue != "" && f.Queue != queue {
			kept = append(kept, f)
		}
	}
	s.faults = kept
}

// faultFor stores the request and returns the fault that applies to it, or nil.
func (s *Server) faultFor(r Request) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	for _, f := range s.faults {
		if f.Action != "" && f.Action != r.Action || f.Queue != "" && f.Queue != r.Queue ||
			f.When != nil && !f.When(r) || f.Times > 0 && f.left == 0 {
			continue
		}
		f.left--
		return f
	}
	return nil
}

// before does what a fault does before the request is handled. ok is false
// where the request is answered by it.
func (f *fault) before(w http.ResponseWriter, r *http.Request) (ok bool) {
	if f == nil {
		return true
	}
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
	}
	switch {
	case f.CutBefore:
		panic(http.ErrAbortHandler)
	case f.Error != nil:
		writeError(w, f.Error)
		return false
	case f.Body != "":
		_, _ = w.Write([]byte(f.Body))
		return false
	}
	return true
}

func (f *fault) refuses(e Entry) *Error {
	if f == nil || f.EntryError == nil {
		return nil
	}
	return f.EntryError(e)
}

func (f *fault) omits(e Entry) bool { return f != nil && f.Omit != nil && f.Omit(e) }

func (f *fault) corrupts(e Entry) bool { return f != nil && f.Corrupt != nil && f.Corrupt(e) }

package fakesqs

import (
	"net/http"
	"time"

	"github.com/outflowhq/outflow/publish/publishtest/internal/fake"
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

// Inject adds a fault.
func (s *Server) Inject(f Fault) { s.faults.Inject(f, f.Times) }

// Heal removes the faults of a queue; "" removes all.
func (s *Server) Heal(queue string) {
	s.faults.Remove(func(f Fault) bool { return queue == "" || f.Queue == queue })
}

// faultFor remembers the request and returns the fault that applies to it, or nil.
func (s *Server) faultFor(r Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Forgets {
		s.requests = append(s.requests, r)
	}
	return s.faults.First(func(f Fault) bool {
		return (f.Action == "" || f.Action == r.Action) && (f.Queue == "" || f.Queue == r.Queue) &&
			(f.When == nil || f.When(r))
	})
}

// before does what a fault does before the request is handled. ok is false
// where the request is answered by it.
func (f *Fault) before(w http.ResponseWriter, r *http.Request) (ok bool) {
	if f == nil {
		return true
	}
	fake.Wait(r, f.Delay)
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

func (f *Fault) refuses(e Entry) *Error {
	if f == nil || f.EntryError == nil {
		return nil
	}
	return f.EntryError(e)
}

func (f *Fault) omits(e Entry) bool { return f != nil && f.Omit != nil && f.Omit(e) }

func (f *Fault) corrupts(e Entry) bool { return f != nil && f.Corrupt != nil && f.Corrupt(e) }

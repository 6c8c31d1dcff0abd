package fakesqs

import "time"

// Acceptance is a message that the Server accepted, and how its answer ended. FIFO deduplication
// drops messages that were accepted.
type Acceptance struct {
	Entry
	Queue string
	// Caller is the access key ID that signed the request.
	Caller string
	// Received is when its request came, Answered when the answer went out; zero before that.
	Received, Answered time.Time
	// Cut says that a fault cut the answer off.
	Cut bool
	// Deduplicated says that the message was not stored: its deduplication ID came within the
	// last 5 minutes.
	Deduplicated bool
}

// Acceptances returns the messages that the Server accepted so far, in order, deleted messages too.
func (s *Server) Acceptances() []Acceptance {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]Acceptance, 0, len(s.acceptances))
	for _, a := range s.acceptances {
		found = append(found, *a)
	}
	return found
}

// accept remembers the acceptances of one request, under the lock.
func (s *Server) accept(r Request, received time.Time, messages []acceptedMessage) (noted []*Acceptance) {
	if s.Forgets {
		return nil
	}
	for _, t := range messages {
		noted = append(noted, &Acceptance{Entry: t.Entry, Queue: r.Queue, Caller: r.Caller, Received: received,
			Deduplicated: t.deduplicated})
	}
	s.acceptances = append(s.acceptances, noted...)
	return noted
}

// answered stores when the answer to a request goes out, or that it is cut off.
func (s *Server) answered(noted []*Acceptance, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range noted {
		a.Answered, a.Cut = s.now(), cut
	}
}

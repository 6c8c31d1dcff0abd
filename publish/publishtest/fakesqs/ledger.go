package fakesqs

import "time"

// Acceptance is one message that the Server took, with what became of its
// answer. A message that FIFO deduplication dropped was taken, too.
type Acceptance struct {
	Entry
	Queue string
	// Caller is the access key ID that signed the request.
	Caller string
	// Received is when its request came, Answered when the answer went out; zero
	// while that is to come.
	Received, Answered time.Time
	// Cut says that a fault cut the answer off.
	Cut bool
	// Deduplicated says that the message was not stored: its deduplication ID was
	// seen lately.
	Deduplicated bool
}

// Acceptances returns what the Server took so far, in the order of acceptance.
// Deleting a message takes nothing out of it.
func (s *Server) Acceptances() []Acceptance {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]Acceptance, 0, len(s.acceptances))
	for _, a := range s.acceptances {
		found = append(found, *a)
	}
	return found
}

// accept notes messages of one request, under the lock.
func (s *Server) accept(r Request, received time.Time, taken []taken) (noted []*Acceptance) {
	for _, t := range taken {
		noted = append(noted, &Acceptance{Entry: t.Entry, Queue: r.Queue, Caller: r.Caller, Received: received, Deduplicated: t.deduplicated})
	}
	s.acceptances = append(s.acceptances, noted...)
	return noted
}

// answered notes when the answer to a request goes out, or that it is cut off.
func (s *Server) answered(noted []*Acceptance, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range noted {
		a.Answered, a.Cut = s.now(), cut
	}
}

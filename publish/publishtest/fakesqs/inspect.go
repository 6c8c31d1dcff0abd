package fakesqs

// Messages returns the messages in a queue, visible or not, in the order of acceptance.
func (s *Server) Messages(account, name string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[keyOf(account, name)]
	if q == nil {
		return nil
	}
	var found []Entry
	for _, m := range q.messages {
		found = append(found, m.Entry)
	}
	return found
}

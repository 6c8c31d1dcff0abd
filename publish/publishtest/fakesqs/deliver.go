package fakesqs

import (
	"fmt"
	"strings"
)

// Deliver puts a message into the queue that has an ARN, as another service of AWS does. It keeps
// SQS's rules for messages: a message that SQS refuses is an error, and so is a missing queue. Of
// a FIFO queue it drops a duplicate.
func (s *Server) Deliver(queueARN string, e Entry) error {
	parts := strings.Split(queueARN, ":")
	if len(parts) != 6 {
		return fmt.Errorf("wants the ARN of a queue (got %q)", queueARN)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[keyOf(parts[4], parts[5])]
	if q == nil && s.AutoCreate {
		q = s.create(parts[4], parts[5], nil)
	}
	if q == nil {
		return errMissing()
	}
	_, _, err := q.sendOne(sendEntry{Entry: e}, s.now())
	if err != nil {
		return err
	}
	return nil
}

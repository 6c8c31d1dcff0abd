package fake

import "time"

// dedupInterval: "any messages sent with the same deduplication ID … within the 5-minute
// deduplication interval are accepted … but not delivered".
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/using-messagededuplicationid-property.html
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatchRequestEntry.html
const dedupInterval = 5 * time.Minute

// Seen has the deduplication IDs of the last five minutes, with the names of the first message of
// each. The zero value is ready. The clock goes forward.
type Seen[N any] struct {
	names map[string]seen[N]
	order []string // in the order of their times
}

type seen[N any] struct {
	at    time.Time
	names N
}

// Find returns the names of the first message of an ID.
func (s *Seen[N]) Find(id string, now time.Time) (names N, ok bool) {
	s.forget(now)
	first, ok := s.names[id]
	return first.names, ok
}

// Add stores the names of a message whose ID Find did not find.
func (s *Seen[N]) Add(id string, now time.Time, names N) {
	if s.names == nil {
		s.names = map[string]seen[N]{}
	}
	s.names[id] = seen[N]{at: now, names: names}
	s.order = append(s.order, id)
}

func (s *Seen[N]) forget(now time.Time) {
	for len(s.order) > 0 && now.Sub(s.names[s.order[0]].at) >= dedupInterval {
		delete(s.names, s.order[0])
		s.order = s.order[1:]
	}
}

package fake

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSeenForgets(t *testing.T) {
	var s Seen[string]
	now := time.Now()
	_, ok := s.Find("a", now)
	assert.False(t, ok)
	s.Add("a", now, "first")
	s.Add("b", now.Add(time.Minute), "second")
	found, ok := s.Find("a", now.Add(5*time.Minute-1))
	assert.True(t, ok)
	assert.Equal(t, "first", found)
	_, ok = s.Find("a", now.Add(5*time.Minute))
	assert.False(t, ok)
	assert.Len(t, s.names, 1)
	assert.Len(t, s.order, 1)
	s.Add("a", now.Add(5*time.Minute), "third")
	found, ok = s.Find("a", now.Add(7*time.Minute))
	assert.True(t, ok)
	assert.Equal(t, "third", found)
}

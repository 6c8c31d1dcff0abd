package outboxdb

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLooksForParkedRows(t *testing.T) {
	t.Parallel()
	var u unparking
	began := time.Now()
	u.planNext(began, true, true, true, nil)
	require.False(t, u.nextAll.After(began), "there is more")
	u.planNext(began, true, false, true, nil)
	require.True(t, u.nextAll.After(began))

	all := u.nextAll
	later := began.Add(time.Second)
	u.planNext(later, false, true, true, nil)
	require.Equal(t, began, u.upTo, "the next look is for the rest of it")
	u.planNext(later, false, false, false, nil)
	require.Equal(t, later, u.upTo)
	require.Equal(t, all, u.nextAll)
	require.True(t, u.next.After(time.Now()), "there was nothing")

	slow := later.Add(time.Second)
	u.planNext(slow, false, false, false, errors.New("too slow"))
	require.Equal(t, slow, u.upTo, "what becomes due from now on must not wait for the rest")
	u.planNext(slow.Add(time.Second), true, false, false, errors.New("too slow"))
	require.Equal(t, slow, u.upTo, "no look has found what came since")
	require.True(t, u.nextAll.After(all.Add(unparkAllInterval)))
	u.planNext(slow.Add(time.Second), false, false, false, errors.New("no connection"))
	require.False(t, u.nextAll.After(time.Now().Add(unparkAllInterval)), "the database was away")
}

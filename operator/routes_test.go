package operator

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	set := func(messageType, destination string) {
		require.NoError(t, o.SetRoute(t.Context(), Route{Type: messageType, Destination: destination}, ada))
	}
	bob := Actor{Who: "bob"}
	unset := func(messageType, destination string, force bool) (bool, error) {
		return o.UnsetRoute(t.Context(), Route{Type: messageType, Destination: destination}, force, bob)
	}
	all := func(messageType string) (routes []string) {
		found, err := o.Routes(t.Context(), messageType)
		require.NoError(t, err)
		for _, r := range found {
			routes = append(routes, r.Type+" "+r.Destination)
		}
		return routes
	}
	const hook = "https://shop.example/in?token=hunter2"
	set("b", "sqs://two")
	set("a", hook)
	set("b", "sqs://one")
	set("b", "sqs://one")
	require.Equal(t, []string{"a " + hook, "b sqs://one", "b sqs://two"}, all(""))
	require.Equal(t, []string{"b sqs://one", "b sqs://two"}, all("b"))
	require.Empty(t, all("c"))
	require.Empty(t, all("c\x00"))

	t.Run("there is no such route", func(t *testing.T) {
		for _, r := range []Route{{"b", "sqs://three"}, {"c", "sqs://one"}, {"b\x00", "sqs://one"}, {"b", "\xff"}} {
			found, err := o.UnsetRoute(t.Context(), r, true, bob)
			require.NoError(t, err)
			require.False(t, found)
		}
	})
	t.Run("one of two", func(t *testing.T) {
		found, err := unset("b", "sqs://two", false)
		require.NoError(t, err)
		require.True(t, found)
	})
	t.Run("the last", func(t *testing.T) {
		found, err := unset("b", "sqs://one", false)
		require.ErrorIs(t, err, ErrLastRoute)
		require.True(t, found)
		require.Equal(t, []string{"b sqs://one"}, all("b"))
	})
	t.Run("the last beside none", func(t *testing.T) {
		set("b", outflow.RouteToNowhere)
		found, err := unset("b", "sqs://one", false)
		require.NoError(t, err)
		require.True(t, found)
		_, err = unset("b", outflow.RouteToNowhere, false)
		require.ErrorIs(t, err, ErrLastRoute, "without it producers would be refused")
	})
	t.Run("the last by force", func(t *testing.T) {
		found, err := unset("a", hook, true)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, []string{"b none"}, all(""))
	})
	require.Equal(t, []string{
		`set-route sqs://two ada@host the queue is back {"type": "b"}`,
		`set-route https://shop.example/in ada@host the queue is back {"type": "a"}`,
		`set-route sqs://one ada@host the queue is back {"type": "b"}`,
		`set-route sqs://one ada@host the queue is back {"type": "b"}`,
		`unset-route sqs://two bob  {"type": "b"}`,
		`set-route none ada@host the queue is back {"type": "b"}`,
		`unset-route sqs://one bob  {"type": "b"}`,
		`unset-route https://shop.example/in bob  {"last": true, "type": "a"}`,
	}, values[string](t, pool, `SELECT act || ' ' || destination || ' ' || who || ' ' || why || ' ' || detail
		FROM outbox.audit ORDER BY id`))
}

// The table refuses them, and Go says why in words.
func TestBadRoutes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	const wantsDestination = "wants none, sqs://queue, sns://topic, rabbitmq://exchange/routing-key, " +
		"temporal://task-queue/WorkflowType or https://host/path"
	const wantsType = `wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit, ` +
		`and a beginning other than "outflow."`
	const wantsText = "wants valid UTF-8 without NUL"
	for _, c := range []struct {
		route        Route
		field, wants string
	}{
		{Route{"a", ""}, "destination", wantsDestination},
		{Route{"a", "None"}, "destination", wantsDestination},
		{Route{"a", outflow.ByRoute}, "destination", wantsDestination},
		{Route{"a", "orders"}, "destination", wantsDestination},
		{Route{"a", "http://shop.example/"}, "destination", wantsDestination},
		{Route{"a", "arn:aws:sqs:eu-west-1:123456789012:r"}, "destination", wantsDestination},
		{Route{"a", "sqs://\x00"}, "destination", wantsText},
		{Route{"", "sqs://q"}, "type", wantsType},
		{Route{"*", "sqs://q"}, "type", wantsType},
		{Route{"a b", "sqs://q"}, "type", wantsType},
		{Route{strings.Repeat("t", 201), "sqs://q"}, "type", wantsType},
		{Route{outflow.CallbackType, "sqs://q"}, "type", wantsType},
		{Route{"Outflow.mine", "sqs://q"}, "type", wantsType},
		{Route{"'; DROP TABLE outbox.messages; --", "sqs://q"}, "type", wantsType},
		{Route{"a\xff", "sqs://q"}, "type", wantsText},
	} {
		err := o.SetRoute(t.Context(), c.route, ada)
		var refused *InvalidRuleError
		if assert.True(t, errors.As(err, &refused), "%+v: %v", c.route, err) {
			assert.Equal(t, InvalidRuleError{Field: c.field, Wants: c.wants}, *refused, "%+v", c.route)
			assert.EqualError(t, err, "setting a route: "+c.field+": "+c.wants)
		}
	}
	require.ErrorContains(t, o.SetRoute(t.Context(), Route{"a", "sqs://q"}, Actor{}), "audit_who", "nobody sets one")
	require.Zero(t, value[int](t, pool,
		`SELECT (SELECT count(*) FROM outbox.routes) + (SELECT count(*) FROM outbox.audit)`))
}

// Two operators at the same time: each sees what the other has done.
func TestRoutesAtTheSameTime(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	together := func(acts ...func() error) (errs []error) {
		var running sync.WaitGroup
		errs = make([]error, len(acts))
		for i, act := range acts {
			running.Go(func() { errs[i] = act() })
		}
		running.Wait()
		return errs
	}
	failed := func(errs []error, wants func(error) bool) (n int) {
		for _, err := range errs {
			if err != nil {
				require.True(t, wants(err), "%v", err)
				n++
			}
		}
		return n
	}
	for round := range 20 {
		messageType := fmt.Sprintf("t%d", round)
		var acts []func() error
		for _, d := range []string{"sqs://a", "sqs://b", "sqs://c"} {
			r := Route{Type: messageType, Destination: d}
			require.NoError(t, o.SetRoute(t.Context(), r, ada))
			acts = append(acts, func() error {
				_, err := o.UnsetRoute(t.Context(), r, false, ada)
				return err
			})
		}
		isLast := func(err error) bool { return errors.Is(err, ErrLastRoute) }
		require.Equal(t, 1, failed(together(acts...), isLast), "one of them is the last")
	}
	var acts []func() error
	for i := range MaxRoutes + 3 {
		acts = append(acts, func() error {
			return o.SetRoute(t.Context(), Route{Type: "full", Destination: fmt.Sprintf("sqs://q%d", i)}, ada)
		})
	}
	isFull := func(err error) bool {
		return strings.Contains(err.Error(), "setting a route: type: wants at most 32 routes")
	}
	require.Equal(t, 3, failed(together(acts...), isFull))
	routes, err := o.Routes(t.Context(), "full")
	require.NoError(t, err)
	require.Len(t, routes, MaxRoutes)
	require.NoError(t, o.SetRoute(t.Context(), routes[0], ada), "it is there already")
	full := outflow.Message{Destination: outflow.ByRoute, Type: "full", Payload: []byte("x")}
	require.Len(t, enqueue(t, pool, full), 1)
	require.Equal(t, MaxRoutes, count(t, pool))
}

// What an operator sends by route, and how it is found by message and by group.
func TestSendByRoute(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	for _, d := range []string{"sqs://a", "sqs://b"} {
		require.NoError(t, o.SetRoute(t.Context(), Route{"user-registered", d}, ada))
	}
	group, err := o.Send(t.Context(), message(outflow.ByRoute), ada)
	require.NoError(t, err)
	a, b := outflow.RoutedID(group, "sqs://a"), outflow.RoutedID(group, "sqs://b")
	for _, id := range []uuid.UUID{a, b} {
		assert.Equal(t, []string{`send 1 ada@host: the queue is back {}`}, audited(t, pool, id))
	}
	enqueue(t, pool, message("sqs://a"), message(outflow.ByRoute))

	d, err := o.Show(t.Context(), a, false)
	require.NoError(t, err)
	assert.Equal(t, group, *d.Message.GroupID)
	assert.Equal(t, []Sibling{{ID: b, Destination: "sqs://b", State: outflow.Pending, Phase: "due"}}, d.Siblings)
	messages, err := o.Messages(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, messages, 2)
	assert.Equal(t, []uuid.UUID{a, b}, []uuid.UUID{messages[0].ID, messages[1].ID})
	messages, err = o.Messages(t.Context(), a)
	require.NoError(t, err)
	require.Len(t, messages, 1)
	_, err = o.Messages(t.Context(), uuid.New())
	require.ErrorIs(t, err, outflow.ErrNotFound)
	_, err = o.Show(t.Context(), group, false)
	require.ErrorIs(t, err, outflow.ErrNotFound, "it is no message's")

	alone, err := o.Show(t.Context(), enqueue(t, pool, message("sqs://a"))[0], false)
	require.NoError(t, err)
	assert.Nil(t, alone.Message.GroupID)
	assert.Empty(t, alone.Siblings)

	require.NoError(t, o.SetRoute(t.Context(), Route{"quiet", outflow.RouteToNowhere}, ada))
	quiet := message(outflow.ByRoute)
	quiet.Type = "quiet"
	id, err := o.Send(t.Context(), quiet, ada)
	require.NoError(t, err)
	_, err = o.Messages(t.Context(), id)
	require.ErrorIs(t, err, outflow.ErrNotFound, "nothing was written")
}

func TestListOfAGroup(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	for _, d := range []string{"sqs://a", "sqs://b", "sqs://c"} {
		require.NoError(t, o.SetRoute(t.Context(), Route{"user-registered", d}, ada))
	}
	groups := enqueue(t, pool, messages(outflow.ByRoute, 3)...)
	ids := func(destinations ...string) (ids []uuid.UUID) {
		for _, d := range destinations {
			ids = append(ids, outflow.RoutedID(groups[1], d))
		}
		return ids
	}
	execute(t, pool, `UPDATE outbox.messages SET state = 'dead', finished_at = now() WHERE destination = 'sqs://b'`)
	for _, c := range []struct {
		f    ListFilter
		want []uuid.UUID
	}{
		{ListFilter{}, ids("sqs://a", "sqs://b", "sqs://c")},
		{ListFilter{State: outflow.Pending}, ids("sqs://a", "sqs://c")},
		{ListFilter{State: outflow.Dead}, ids("sqs://b")},
		{ListFilter{State: outflow.Dead, Destination: "sqs://a"}, nil},
		{ListFilter{Destination: "sqs://c"}, ids("sqs://c")},
		{ListFilter{State: outflow.Pending, Type: "user-registered", Since: TimeBound{Ago: time.Hour, Set: true}},
			ids("sqs://a", "sqs://c")},
		{ListFilter{Retrying: true}, nil},
	} {
		for _, c.f.Limit = range []int{1, 10} {
			c.f.Group = groups[1]
			assert.ElementsMatch(t, c.want, list(t, o, c.f), "%+v", c.f)
		}
	}
	copied, _, err := o.Resend(t.Context(), ids("sqs://b")[0], ada)
	require.NoError(t, err)
	require.False(t, copied.Done, "it is dead")
	execute(t, pool, `UPDATE outbox.messages SET state = 'delivered' WHERE destination = 'sqs://b'`)
	copied, newID, err := o.Resend(t.Context(), ids("sqs://b")[0], ada)
	require.NoError(t, err)
	require.True(t, copied.Done)
	require.NotContains(t, list(t, o, ListFilter{Group: groups[1], Limit: 10}), newID, "a copy is of no group")
}

// The group is found by its index, whatever the planner believes about a million others.
func TestAGroupIsFoundByItsIndex(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	execute(t, pool, `ALTER TABLE outbox.messages SET (autovacuum_enabled = off)`)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, group_id, group_place)
		SELECT gen_random_uuid(), 'sqs://q', 'a', 'x', gen_random_uuid(), 1 FROM generate_series(1, 50000)`)
	require.NoError(t, o.SetRoute(t.Context(), Route{"user-registered", "sqs://a"}, ada))
	group := enqueue(t, pool, message(outflow.ByRoute))[0]
	q := newListQuery(ListFilter{Group: group}, false)
	for range 2 {
		for statement, args := range map[string][]any{
			q.statement(51): {group},
			newListQuery(ListFilter{Group: group, State: outflow.Pending}, false).statement(51): {group},
			messagesSQL: {group},
			siblingsSQL: {group, uuid.New()},
		} {
			n := 1 << 20
			for range 3 { // the fewest: a busy server has a session read the catalog again
				n = min(n, teststack.Explain(t, pool, "force_generic_plan", statement, args...).Buffers())
			}
			assert.LessOrEqual(t, n, 30, statement)
		}
		execute(t, pool, `ANALYZE outbox.messages`)
	}
}

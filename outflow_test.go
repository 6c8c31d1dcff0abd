package outflow_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestFinal(t *testing.T) {
	t.Parallel()
	for state, want := range map[outflow.State]bool{
		outflow.Pending: false, outflow.Delivered: true, outflow.Dead: true, outflow.Expired: true,
		outflow.Cancelled: true, "": false, "leased": false,
	} {
		require.Equal(t, want, state.Final(), state)
	}
}

func TestBytesOfAMessage(t *testing.T) {
	m := outflow.Message{Payload: []byte("12345"), Headers: map[string]string{"name": "value", "n": "日"}}
	require.Equal(t, 5+len("name")+len("value")+1+3, m.Bytes())
	require.Zero(t, outflow.Message{}.Bytes())
}

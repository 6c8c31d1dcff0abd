package outflow_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestKeep(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"forever": 0, "1m": time.Minute, "168h": 168 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute,
		"3650d": 87600 * time.Hour,
	} {
		var k, again outflow.Keep
		require.NoError(t, k.UnmarshalText([]byte(text)), text)
		assert.Equal(t, want, time.Duration(k), text)
		require.NoError(t, again.UnmarshalText([]byte(k.String())))
		assert.Equal(t, k, again, "%s survives as %s", text, k)
	}
	for _, text := range []string{"", "0", "59s", "-1h", "3651d", "0d", "-3d", "1.5d", "d", "87601h", "for ever",
		"99999999999999999999d", "1w"} {
		require.ErrorContains(t, new(outflow.Keep).UnmarshalText([]byte(text)), "from 1m to 3650d", text)
	}
}

func TestRetentionIsReadable(t *testing.T) {
	data, err := json.Marshal(outflow.DefaultRetention())
	require.NoError(t, err)
	assert.JSONEq(t, `{"delivered":"7d","dead":"forever","expired":"30d","cancelled":"30d","history":false}`,
		string(data))
	var back outflow.Retention
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Equal(t, outflow.DefaultRetention(), back)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"dead":"soon"}`), &back), "wants")
}

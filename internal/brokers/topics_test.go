package brokers

import (
	"errors"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

// setAWS sets AWS's variables, and no others of AWS count.
func setAWS(t *testing.T, values map[string]string) {
	t.Helper()
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
		"AWS_ACCOUNT_ID",
		"AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_STS", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, values[name])
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "fake")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "fake")
}

// ofScheme returns the broker of a scheme, with the process's environment.
func ofScheme(t *testing.T, scheme string) Broker {
	t.Helper()
	for _, b := range Load(t.Context(), os.Getenv) {
		if slices.Contains(b.Schemes, scheme) {
			return b
		}
	}
	t.Fatalf("no broker for %s", scheme)
	return Broker{}
}

// The account of a topic is AWS_ACCOUNT_ID, else what STS says.
func TestTopicsOfTheEnvironment(t *testing.T) {
	for name, want := range map[string]string{"123456789012": "123456789012", "": "000000000000"} {
		topics := &fakesns.Server{}
		endpoint := httptest.NewServer(topics)
		t.Cleanup(endpoint.Close)
		setAWS(t, map[string]string{"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_SNS": endpoint.URL,
			"AWS_ENDPOINT_URL_STS": endpoint.URL, "AWS_ACCOUNT_ID": name})
		arn := "arn:aws:sns:eu-west-1:" + want + ":news"
		topics.CreateTopic(arn, nil)
		b := ofScheme(t, "sns")
		require.NotNil(t, b.Publisher)
		_, err := b.Publisher.Publish(t.Context(), outflow.Message{ID: uuid.New(), Destination: "sns://news",
			Type: "order-placed", Payload: []byte("x")})
		require.NoError(t, err)
		assert.Len(t, topics.Published(arn), 1)
		require.NoError(t, b.Publisher.(publish.Checker).Check(t.Context(), "sns://news"))
		assert.Empty(t, b.Waiting)
		if name != "" {
			assert.Empty(t, topics.Requests("GetCallerIdentity"))
		}
	}
}

func TestTopicsWithoutARegionWait(t *testing.T) {
	setAWS(t, nil)
	b := ofScheme(t, "sns")
	assert.Contains(t, b.Waiting, "messages to topics wait")
	assert.ErrorContains(t, b.Publisher.(publish.Refuser).Refusal("sns://news"), "AWS_REGION")
}

// A mistake in a variable that SQS and SNS share is reported once, and one of its own beside it.
func TestSharedMistakesAreReportedOnce(t *testing.T) {
	setAWS(t, map[string]string{"AWS_REGION": "eu west", "AWS_ENDPOINT_URL_SNS": "nonsense"})
	all := Load(t.Context(), os.Getenv)
	problems := Problems(all).Error()
	assert.Equal(t, 1, strings.Count(problems, "AWS_REGION"), problems)
	assert.Equal(t, 1, strings.Count(problems, "AWS_ENDPOINT_URL_SNS"), problems)
	for _, b := range all[:2] {
		assert.ErrorContains(t, b.ClientErr, "AWS_REGION")
		assert.Nil(t, b.Publisher)
	}
	setAWS(t, nil)
	assert.NoError(t, Problems(Load(t.Context(), os.Getenv)))
}

func TestVariablesAreListedOnce(t *testing.T) {
	listed := map[string]bool{}
	for _, s := range Settings() {
		assert.False(t, listed[s.Name], s.Name)
		listed[s.Name] = true
	}
	assert.True(t, listed["AWS_REGION"] && listed["OUTFLOW_SNS_TIMEOUT"])
}

func TestDoctorNamesTheCommand(t *testing.T) {
	setAWS(t, map[string]string{"AWS_REGION": "eu-west-1"})
	missing := outflow.Permanent(outflow.ErrNoDestination)
	for destination, want := range map[string]string{
		"sqs://-a":              "aws sqs create-queue --queue-name=-a, or outflow redirect its messages",
		"sns://news":            "aws sns create-topic --name news, or outflow redirect its messages",
		"sns://news.fifo":       "aws sns create-topic --name news.fifo --attributes FifoTopic=true, or outflow redirect its messages",
		"sqs://orders":          "aws sqs create-queue --queue-name orders, or outflow redirect its messages",
		"sqs://o?region=eu-a-1": "aws sqs create-queue --queue-name o --region eu-a-1, or outflow redirect its messages",
		"sqs://orders.fifo":     "aws sqs create-queue --queue-name orders.fifo --attributes FifoQueue=true, or outflow redirect its messages",
	} {
		scheme, _, _ := strings.Cut(destination, "://")
		d := ofScheme(t, scheme).Doctor
		assert.Equal(t, want, d.Advice(destination, missing))
		assert.Equal(t, "check AWS_REGION, the credentials and their policy",
			d.Advice(destination, outflow.Unavailable(errors.New("AccessDenied"))))
	}
	assert.Equal(t, "create the topic, or outflow redirect its messages",
		ofScheme(t, "sns").Doctor.Advice("sns://a!", missing))
}

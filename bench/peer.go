package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/publish/awssqs"
)

// The peers: what a user would pick instead of Outflow. Each is set up as its own documentation
// advises for throughput, in a file of its own.
const (
	riverPeer     = "river"
	dbosPeer      = "dbos"
	watermillPeer = "watermill"
)

// peerMessage is what a peer's job, workflow or envelope carries.
type peerMessage struct {
	ID    string `json:"id"`
	Queue string `json:"queue"`
	Body  string `json:"body"`
}

// peerMessages are new messages for a queue, and their IDs.
func peerMessages(queue string, bodies []string) (all []peerMessage, ids []string) {
	for _, body := range bodies {
		id := uuid.Must(uuid.NewV7()).String()
		all, ids = append(all, peerMessage{ID: id, Queue: queue, Body: body}), append(ids, id)
	}
	return all, ids
}

// peerArgs are a peer's arguments: a database, the address of Temporal, which it does not need, a
// task queue, which neither does it need, and the queue service.
type peerArgs struct{ database, queues string }

func parsePeerArgs(name string, args []string) (peerArgs, error) {
	if len(args) != 4 {
		return peerArgs{}, fmt.Errorf("%s wants a database, an address, a task queue and a queue service", name)
	}
	return peerArgs{args[0], args[3]}, nil
}

// pool is a pool of connections that no worker of a peer has to wait for.
func (a peerArgs) pool(ctx context.Context, connections int32) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(a.database)
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err)
	}
	c.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return pool, nil
}

// preparePeers creates the peers' tables.
func (w *world) preparePeers(ctx context.Context, pool *pgxpool.Pool) (err error) {
	if err := errors.Join(prepareRiver(ctx, pool), prepareWatermill(ctx, pool)); err != nil {
		return err
	}
	w.dbos, err = prepareDBOS(ctx, pool)
	return err
}

func (w *world) closePeers() error {
	if w.dbos == nil {
		return nil
	}
	return dbos.Shutdown(w.dbos, dbosStopWithin)
}

// peerConnections are more idle connections to the queue service than any peer has sends at once.
// The SDK keeps ten, and would open and close the others all the time.
const peerConnections = 1024

// peerHTTP is the SDK's HTTP client with more idle connections.
func peerHTTP() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = peerConnections, peerConnections
	})
}

// peerSender sends messages one by one.
type peerSender struct {
	sqs *sqs.Client
	url string
}

func newPeerSender(endpoint string) peerSender {
	client := newSQS(endpoint)
	options := client.Options()
	options.HTTPClient = peerHTTP()
	return peerSender{sqs.New(options), endpoint + "/000000000000/"}
}

func (s peerSender) send(ctx context.Context, m peerMessage) error {
	_, err := s.sqs.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: aws.String(s.url + m.Queue), MessageBody: &m.Body, MessageAttributes: messageID(m.ID),
	})
	return err
}

func messageID(id string) map[string]types.MessageAttributeValue {
	return map[string]types.MessageAttributeValue{
		awssqs.AttributeMessageID: {DataType: aws.String("String"), StringValue: &id},
	}
}

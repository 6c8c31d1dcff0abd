package main

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.temporal.io/api/enums/v1"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

const (
	streamFile     = "stream.png"
	streamed       = "sqs://newsletter"
	streamMessages = 20_000
	// enqueuedAtOnce keeps a call's parameters small.
	enqueuedAtOnce = 1000
)

// takeStream has a stream deliver a backlog, and takes the picture of its run. A stream waits half a minute
// for more messages before it ends.
func takeStream(ctx context.Context, s *scene, p *page, folder string) error {
	first := newsletter(0) // the command wants a destination with messages
	if err := s.enqueue(ctx, first); err != nil {
		return err
	}
	if err := s.until(ctx, first.ID, "state = 'delivered'"); err != nil {
		return err
	}
	start := exec.CommandContext(ctx, filepath.Join(s.folder, "outflow"), "stream", "start", streamed)
	start.Env = s.env()
	if out, err := start.CombinedOutput(); err != nil {
		return fmt.Errorf("starting the stream: %w\n%s", err, out)
	}
	if err := s.enqueueBacklog(ctx); err != nil {
		return err
	}
	d := delivery{id: workflows.StreamID(outflow.DefaultOutbox, streamed)}
	if err := s.untilRun(ctx, &d, enums.WORKFLOW_EXECUTION_STATUS_RUNNING); err != nil {
		return err
	}
	shot := picture{
		streamFile, listPath + "/" + url.PathEscape(d.id) + "/" + d.run + "/pending-activities", 560, expect{shows: []string{
			"RUNNING " + d.id, "Activity ID " + workflows.ActivityIDStream, fmt.Sprintf(`"delivered": %d`, streamMessages),
		}},
	}
	return s.take(ctx, p, shot, folder)
}

func newsletter(user int) outflow.Message {
	return outflow.Message{ID: uuid.Must(uuid.NewV7()), Type: "newsletter-due", Destination: streamed,
		Payload: fmt.Appendf(nil, `{"user":%d}`, user)}
}

// enqueueBacklog commits the messages of the stream together.
func (s *scene) enqueueBacklog(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for n := 0; n < streamMessages; n += enqueuedAtOnce {
			messages := make([]outflow.Message, 0, enqueuedAtOnce)
			for i := range enqueuedAtOnce {
				messages = append(messages, newsletter(n+i))
			}
			if _, err := outboxdb.Enqueue(ctx, tx, messages...); err != nil {
				return err
			}
		}
		return nil
	})
}

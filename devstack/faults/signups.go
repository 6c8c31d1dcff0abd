package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// WelcomeQueue is the queue of the example's welcome e-mails.
const WelcomeQueue = "welcome-email"

// SignUpQueues are the example's queues. They hide a message for two seconds only.
var SignUpQueues = []string{"user-registered", WelcomeQueue}

// SignUps posts sign-ups to the example's service, and knows what it confirmed. One
// without an answer is not repeated: the table alone knows.
type SignUps struct {
	world   *World
	url     string
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	posted    int
	confirmed []string // e-mail addresses
}

const postTimeout = 5 * time.Second

// noteHandlings counts what the consumer handles, in its own transactions: a copy
// that the inbox knows already is counted, too, and one that is rolled back is not.
const noteHandlings = `
CREATE TABLE handlings (message_id uuid NOT NULL);
CREATE FUNCTION note_handling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO handlings VALUES (NEW.message_id);
	RETURN NEW;
END $$;
CREATE TRIGGER note_handling BEFORE INSERT ON inbox.seen FOR EACH ROW EXECUTE FUNCTION note_handling()`

// PrepareSignUps makes the example's queues and what counts its consumer's work,
// before its programs start.
func (w *World) PrepareSignUps(ctx context.Context) error {
	for _, name := range SignUpQueues {
		w.Queues.CreateQueue("", name, map[string]string{"VisibilityTimeout": "2"})
	}
	if _, err := migrate.Up(ctx, w.Pool); err != nil {
		return err
	}
	if _, err := w.Pool.Exec(ctx, noteHandlings); err != nil {
		return fmt.Errorf("counting what is handled: %w", err)
	}
	return nil
}

// HoldDelete has the next delete of a message of the queue wait and come to
// nothing: its consumer has done the work, and does not live to take the message
// off the queue. The consumer's name is sent when it waits.
func (w *World) HoldDelete(queue string) <-chan string {
	waits := make(chan string, 1)
	w.Queues.Inject(fakesqs.Fault{
		Action: "DeleteMessage", Queue: queue, Times: 1, Delay: 10 * time.Second, CutBefore: true,
		When: func(r fakesqs.Request) bool {
			select {
			case waits <- r.Caller:
			default: // asked again, for a later request
			}
			return true
		},
	})
	return waits
}

// StartSignUps posts rate sign-ups a second to the service at url, each with an
// address of its own, until Stop.
func (w *World) StartSignUps(rate int, url string) *SignUps {
	ctx, stop := context.WithCancel(context.Background())
	s := &SignUps{world: w, url: url, stop: stop}
	for range rate {
		s.running.Go(func() {
			for tick := time.NewTicker(time.Second); ; {
				s.post()
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
				}
			}
		})
	}
	return s
}

func (s *SignUps) post() {
	s.mu.Lock()
	s.posted++
	email := fmt.Sprintf("user-%d@example.com", s.posted)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), postTimeout)
	defer cancel()
	body := bytes.NewReader(fmt.Appendf(nil, `{"name": "A user", "email": %q}`, email))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/users", body)
	if err != nil {
		return
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	if answer.StatusCode == http.StatusCreated {
		s.mu.Lock()
		s.confirmed = append(s.confirmed, email)
		s.mu.Unlock()
	}
}

// Stop ends the posting, and returns when the last sign-up has its answer.
func (s *SignUps) Stop() {
	s.stop()
	s.running.Wait()
}

// Confirmed is how many sign-ups were answered with 201.
func (s *SignUps) Confirmed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.confirmed)
}

// AwaitConsumed waits until the example's queues are empty.
func (w *World) AwaitConsumed(ctx context.Context) error {
	for {
		left := 0
		for _, name := range SignUpQueues {
			left += len(w.Queues.Messages("", name))
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the consumers: %d messages are left: %w", left, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Emails is what became of the sign-ups.
type Emails struct {
	Users  int `db:"users"`
	Emails int `db:"emails"`
	// Missing are users without an e-mail, Twice those with more than one.
	Missing int `db:"missing"`
	Twice   int `db:"twice"`
	// Strangers are e-mails to nobody who is a user, or of no welcome message.
	Strangers int `db:"strangers"`
	// Again are welcome messages that the consumer handled more than once: what it
	// had to deduplicate by the message ID.
	Again int `db:"again"`
	// Posted are all sign-ups; Forgotten were confirmed and are no users.
	Posted    int `db:"-"`
	Forgotten int `db:"-"`
}

const readEmails = `
SELECT count(*) AS users, coalesce(sum(u.n), 0) AS emails,
       count(*) FILTER (WHERE u.n = 0) AS missing, count(*) FILTER (WHERE u.n > 1) AS twice,
       (SELECT count(*) FROM emails AS e
         WHERE NOT EXISTS (SELECT FROM users AS u WHERE u.email = e.recipient)
            OR NOT EXISTS (SELECT FROM outbox.messages AS m WHERE m.id = e.message_id AND m.type = 'welcome-email' AND m.state = 'delivered')) AS strangers,
       (SELECT count(*) FROM (SELECT FROM handlings AS h JOIN outbox.messages AS m ON m.id = h.message_id
                               WHERE m.type = 'welcome-email' GROUP BY h.message_id HAVING count(*) > 1) AS again) AS again
  FROM (SELECT count(e.id) AS n FROM users AS u LEFT JOIN emails AS e ON e.recipient = u.email GROUP BY u.id) AS u`

// Emails counts by SQL, beside every link. The posting must have been stopped, and
// the queues consumed.
func (s *SignUps) Emails(ctx context.Context) (Emails, error) {
	rows, err := s.world.Pool.Query(ctx, readEmails)
	if err != nil {
		return Emails{}, fmt.Errorf("counting the e-mails: %w", err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Emails])
	if err != nil {
		return e, fmt.Errorf("counting the e-mails: %w", err)
	}
	rows, err = s.world.Pool.Query(ctx, "SELECT email FROM users")
	if err != nil {
		return e, fmt.Errorf("reading the users: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return e, fmt.Errorf("reading the users: %w", err)
	}
	slices.Sort(users)
	e.Posted = s.posted
	for _, email := range s.confirmed {
		if _, ok := slices.BinarySearch(users, email); !ok {
			e.Forgotten++
		}
	}
	return e, nil
}

func (e Emails) String() string {
	return fmt.Sprintf("posted %d, users %d, e-mails %d, missing %d, twice %d, to strangers %d, confirmed and forgotten %d; handled more than once by the consumer: %d",
		e.Posted, e.Users, e.Emails, e.Missing, e.Twice, e.Strangers, e.Forgotten, e.Again)
}

// Wrong says what must not be, and "" where each user has exactly one e-mail.
func (e Emails) Wrong() string {
	switch {
	case e.Missing+e.Twice+e.Strangers+e.Forgotten > 0 || e.Emails != e.Users:
		return "not every user has exactly one welcome e-mail"
	case e.Users == 0:
		return "nobody signed up"
	case e.Again == 0:
		return "the consumer met no message twice, so that deduplication had nothing to do"
	}
	return ""
}

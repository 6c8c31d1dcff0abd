package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// messagesEach is how many messages a sign-up enqueues.
const messagesEach = 3

var names = []string{
	"Ada", "Grace", "Alan", "Barbara", "Dennis", "Frances", "Edsger", "Margaret", "Ken", "Radia", "Niklaus", "Lynn",
}

type person struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

// personAt returns the n-th person, with an e-mail address that no other n has.
func personAt(n int) person {
	name := names[n%len(names)]
	local := strings.ToLower(name)
	if round := n / len(names); round > 0 {
		local += fmt.Sprint(round + 1)
	}
	return person{Name: name, Email: local + "@example.com"}
}

var client = &http.Client{Timeout: 10 * time.Second}

// signUp signs the next person up, as any client of the service would.
func (d *demo) signUp(ctx context.Context) error {
	p := personAt(d.before.users + d.people)
	d.people++
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", p.Name, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.service, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("signing up %s: %w", p.Name, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("signing up %s: %w", p.Name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("signing up %s: %w", p.Name, err)
	}
	var answer struct{ Messages []uuid.UUID }
	if response.StatusCode == http.StatusCreated {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil || len(answer.Messages) != messagesEach {
		return fmt.Errorf("signing up %s: the service answered %s: %s", p.Name, response.Status, bytes.TrimSpace(text))
	}
	d.family.print("demo",
		fmt.Sprintf("signed up %s <%s>: a user and %d messages committed", p.Name, p.Email, len(answer.Messages)))
	return nil
}

package operator

import (
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// cursor is the place of a list's row.
type cursor struct {
	Order       string    `json:"o"`
	Destination string    `json:"d,omitempty"`
	At          time.Time `json:"t,omitzero"`
	ID          uuid.UUID `json:"i"`
}

func cursorAt(order string, s MessageStatus) cursor {
	c := cursor{Order: order, ID: s.ID}
	switch order {
	case orderFinished:
		if s.FinishedAt != nil {
			c.At = *s.FinishedAt
		}
	case orderAvailable:
		c.Destination, c.At = s.Destination, s.AvailableAt
	case orderParked:
		c.At = s.AvailableAt
	case orderRetrying:
		c.Destination = s.Destination
	}
	return c
}

func (c cursor) String() string {
	encoded, _ := json.Marshal(c) // it has strings and a time between the years 2000 and 9999
	return base64.RawURLEncoding.EncodeToString(encoded)
}

func readCursor(s string) (cursor, error) {
	var c cursor
	decoded, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(decoded, &c)
	}
	return c, err
}

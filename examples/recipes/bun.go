package recipes

import (
	"context"

	"github.com/uptrace/bun"

	"github.com/outflowhq/outflow/outboxdb"
)

// BunUser is a row of users.
type BunUser struct {
	bun.BaseModel `bun:"table:users"`

	ID   int64 `bun:",pk,autoincrement"`
	Name string
}

// RegisterBun uses the *sql.Tx that bun.Tx embeds.
func RegisterBun(ctx context.Context, b *bun.DB, name string) error {
	return b.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		user := BunUser{Name: name}
		if _, err := tx.NewInsert().Model(&user).Exec(ctx); err != nil {
			return err
		}
		_, err := outboxdb.EnqueueSQL(ctx, tx.Tx, registered(user.ID, name))
		return err
	})
}

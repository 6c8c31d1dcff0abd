package recipes

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"

	"github.com/outflowhq/outflow/outboxdb"
)

// GORMUser is a row of users.
type GORMUser struct {
	ID   int64
	Name string
}

// TableName returns the table of GORMUser.
func (GORMUser) TableName() string { return "users" }

// RegisterGORM uses the *sql.Tx below GORM's transaction.
func RegisterGORM(ctx context.Context, g *gorm.DB, name string) error {
	return g.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		user := GORMUser{Name: name}
		if err := tx.Create(&user).Error; err != nil {
			return err
		}
		below, err := SQLTx(tx)
		if err != nil {
			return err
		}
		_, err = outboxdb.EnqueueSQL(ctx, below, registered(user.ID, name))
		return err
	})
}

// SQLTx returns the transaction that tx runs in.
func SQLTx(tx *gorm.DB) (*sql.Tx, error) {
	pool := tx.Statement.ConnPool
	if prepared, ok := pool.(*gorm.PreparedStmtTX); ok { // with gorm.Config.PrepareStmt
		pool = prepared.Tx
	}
	below, ok := pool.(*sql.Tx)
	if !ok {
		return nil, errors.New("enqueuing with GORM wants to be called within Transaction")
	}
	return below, nil
}

// Package migrations holds the files that make and change the schema outbox: plain SQL in
// pairs, NAME.up.sql and NAME.down.sql, for any migration tool. Package migrate applies
// them with goose.
//
// The invariant: the files are applied in the order of their names, and a released file is
// never edited.
package migrations

import "embed"

// Files are the migrations, for a tool that reads an fs.FS.
//
//go:embed *.sql
var Files embed.FS

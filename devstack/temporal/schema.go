package temporal

import (
	"fmt"
	"slices"

	"go.temporal.io/server/common/config"
	"go.temporal.io/server/tools/common/schema"
	toolsql "go.temporal.io/server/tools/sql"
)

// applySchema brings one database to the newest version of the schema that is embedded in the
// server's module.
//
// From an empty database on, every version is applied in turn, as Temporal's own tool does it: each
// is recorded, and a statement that a killed start has already run is skipped, so that half an
// upgrade goes on where it stopped.
func applySchema(db *config.SQL, name string, logger serverLogger) error {
	conn, err := toolsql.NewConnection(db, logger)
	if err != nil {
		return fmt.Errorf("connecting to database %s: %w", db.DatabaseName, err)
	}
	defer conn.Close()
	if !hasVersion(conn) {
		setup := schema.NewSetupSchemaTask(conn, &schema.SetupConfig{InitialVersion: "0.0"}, logger)
		if err := setup.Run(); err != nil {
			return fmt.Errorf("making the version tables of database %s: %w", db.DatabaseName, err)
		}
	}
	update := schema.NewUpdateSchemaTask(conn, &schema.UpdateConfig{DBName: db.DatabaseName, SchemaName: name}, logger)
	if err := update.Run(); err != nil {
		return fmt.Errorf("upgrading the schema of database %s: %w", db.DatabaseName, err)
	}
	return nil
}

// hasVersion looks for the table first: a query that must fail would stand in Postgres's log as an
// error.
func hasVersion(conn *toolsql.Connection) bool {
	tables, err := conn.ListTables()
	if err != nil || !slices.Contains(tables, "schema_version") {
		return false
	}
	_, err = conn.ReadSchemaVersion()
	return err == nil
}

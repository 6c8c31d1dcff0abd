// Registers a user whose name is the first argument: the user exists if and only
// if its message does.
import pg from 'pg';

export async function register(pool, name) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const { rows } = await client.query(
      'INSERT INTO users (name) VALUES ($1) RETURNING id', [name]);
    const payload = { id: Number(rows[0].id), name };
    await client.query('SELECT outbox.enqueue($1, $2, $3::json)',
      ['sqs://welcome-email', 'user-registered', JSON.stringify(payload)]);
    await client.query('COMMIT');
  } catch (err) {
    await client.query('ROLLBACK');
    throw err;
  } finally {
    client.release();
  }
}

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
try {
  await register(pool, process.argv[2]);
} catch (err) {
  console.error(err.message);
  process.exitCode = 1;
} finally {
  await pool.end();
}

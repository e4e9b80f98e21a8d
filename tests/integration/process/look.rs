//! A look into a store with nothing but SQL: what the program itself says is not believed.
//!
//! The same queries go to both engines. `hex()` is there in both, and a flag is a number in SQLite and a truth
//! value in PostgreSQL: queries cast it with `CAST(… AS int)`.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use serde_json::Value;

use super::place::Rows;
use super::server::World;
use super::topics::Topics;

/// How long a look waits for a checkpoint.
const BUSY_TIMEOUT_MS: u32 = 10_000;

/// What SQLite's `hex` does. Functions of a session are found by their full name only.
const PG_HEX: &str = "CREATE FUNCTION pg_temp.hex(bytea) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT coalesce(upper(encode($1, 'hex')), '') $$";

/// A reading connection.
enum Reading {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A reading connection, and a reading client where the events are in Kafka.
pub(crate) struct Look {
    reading: Reading,
    topics: Option<Topics>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    row: String,
}

impl Look {
    /// Opens the database of a folder. While no server runs, closing it empties the write-ahead log, as any
    /// last connection does: so a test of crashes looks only while a server runs, or at the very end.
    pub(crate) fn into(data: &Path) -> Self {
        let file = format!("file:{}?mode=rw", data.join("horizons.db").display());
        let mut connection = SqliteConnection::establish(&file).unwrap();
        let settings = format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}; PRAGMA query_only = ON;");
        connection.batch_execute(&settings).unwrap();
        Self { reading: Reading::Sqlite(connection), topics: None }
    }

    /// Opens whatever a world keeps its rows and events in.
    pub(crate) fn of(world: &World) -> Self {
        let mut look = match &world.place().rows {
            Rows::Sqlite => Self::into(&world.data()),
            Rows::Postgres { direct, schema, .. } => {
                let mut connection = PgConnection::establish(direct).unwrap();
                connection.batch_execute(&format!("SET search_path TO {schema}; {PG_HEX}")).unwrap();
                Self { reading: Reading::Postgres(connection), topics: None }
            }
        };
        look.topics = Topics::of(&world.place().events);
        look
    }

    /// Gives the client that reads topics, where the events are in Kafka.
    pub(crate) fn topics(&self) -> Option<&Topics> {
        self.topics.as_ref()
    }

    /// Gives the number that a query calls `number`.
    pub(crate) fn number(&mut self, query: &str) -> i64 {
        let query = diesel::sql_query(query);
        let number: QueryResult<Number> = match &mut self.reading {
            Reading::Sqlite(connection) => query.get_result(connection),
            Reading::Postgres(connection) => query.get_result(connection),
        };
        number.unwrap().number
    }

    /// Counts a table's rows.
    pub(crate) fn count(&mut self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) AS number FROM {table}"))
    }

    /// Gives rows as objects; `columns` is what `json_object` takes.
    pub(crate) fn rows(&mut self, columns: &str, from: &str) -> Vec<Value> {
        let rows: QueryResult<Vec<Row>> = match &mut self.reading {
            Reading::Sqlite(connection) => {
                diesel::sql_query(format!("SELECT json_object({columns}) AS row FROM {from}"))
                    .load(connection)
            }
            Reading::Postgres(connection) => {
                let query = format!("SELECT json_build_object({columns})::text AS row FROM {from}");
                diesel::sql_query(query.replace("hex(", "pg_temp.hex(")).load(connection)
            }
        };
        rows.unwrap().into_iter().map(|row| serde_json::from_str(&row.row).unwrap()).collect()
    }

    /// Tells whether everything that was accepted is done: no live job, no open order, every lane at the end
    /// of its partition, everything that was committed sent.
    pub(crate) fn is_settled(&mut self) -> bool {
        let open = "SELECT (SELECT count(*) FROM jobs WHERE CAST(is_live AS int) = 1)
             + (SELECT count(*) FROM orders WHERE CAST(is_answered AS int) = 0)
             + (SELECT count(*) FROM parked_keys WHERE wish <> 'wait') AS number";
        self.number(open) == 0 && self.behind().is_some_and(|behind| behind.is_empty())
    }

    /// Lists the lanes that are not at the end of their partition, and partitions that are not sent to their
    /// end. None while that cannot be known.
    fn behind(&mut self) -> Option<Vec<Value>> {
        let columns =
            "'group', group_name, 'topic', topic, 'partition', partition, 'next', progress.next_offset";
        if self.topics.is_none() {
            let from = "lanes JOIN progress USING (lane) JOIN log_head USING (topic, partition)
                WHERE progress.next_offset IS DISTINCT FROM log_head.next_offset";
            return Some(self.rows(&format!("{columns}, 'end', log_head.next_offset"), from));
        }
        let unsent = "log_head LEFT JOIN outbox_cursors USING (topic, partition)
            WHERE coalesce(outbox_cursors.next_offset, 0) <> log_head.next_offset";
        let columns_of_unsent = "'unsent', topic, 'partition', partition, 'end', log_head.next_offset";
        let mut behind = self.rows(columns_of_unsent, unsent);
        if !behind.is_empty() {
            return Some(behind);
        }
        let ends = self.topics.as_ref()?.ends(false)?;
        // Of a partition that was made anew, the lane of its newest generation counts.
        let newest = "lanes JOIN progress USING (lane)
            WHERE lane IN (SELECT max(lane) FROM lanes GROUP BY group_name, topic, partition)";
        for lane in self.rows(columns, newest) {
            let at = (lane["topic"].as_u64()?, lane["partition"].as_u64()?);
            let (_, end) = ends.get(&at)?;
            if lane["next"].as_u64().unwrap_or_default() != *end {
                behind.push(lane);
            }
        }
        Some(behind)
    }

    /// Lists what is not settled, for a test that gave up.
    pub(crate) fn unsettled(&mut self) -> String {
        let jobs = self.rows(
            "'job', job_id, 'status', status, 'attempt', attempt, 'agent', agent",
            "jobs WHERE CAST(is_live AS int) = 1",
        );
        let orders = self.rows("'job', job_id, 'kind', kind", "orders WHERE CAST(is_answered AS int) = 0");
        let lanes = self.behind();
        let parked = self.rows("'lane', lane, 'wish', wish", "parked_keys WHERE wish <> 'wait'");
        format!("jobs {jobs:?} orders {orders:?} lanes {lanes:?} parked {parked:?}")
    }
}

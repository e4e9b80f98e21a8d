//! A look into a data folder with nothing but SQL: what the program itself says is not believed.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use serde_json::Value;

/// How long a look waits for a checkpoint.
const BUSY_TIMEOUT_MS: u32 = 10_000;

/// A reading connection.
pub(super) struct Look(SqliteConnection);

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
    pub(super) fn into(data: &Path) -> Self {
        let file = format!("file:{}?mode=rw", data.join("horizons.db").display());
        let mut connection = SqliteConnection::establish(&file).unwrap();
        let settings = format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}; PRAGMA query_only = ON;");
        connection.batch_execute(&settings).unwrap();
        Self(connection)
    }

    /// Gives the number that a query calls `number`.
    pub(super) fn number(&mut self, query: &str) -> i64 {
        diesel::sql_query(query).get_result::<Number>(&mut self.0).unwrap().number
    }

    /// Counts a table's rows.
    pub(super) fn count(&mut self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) AS number FROM {table}"))
    }

    /// Gives rows as objects; `columns` is what `json_object` takes.
    pub(super) fn rows(&mut self, columns: &str, from: &str) -> Vec<Value> {
        let query = format!("SELECT json_object({columns}) AS row FROM {from}");
        let rows: Vec<Row> = diesel::sql_query(query).load(&mut self.0).unwrap();
        rows.into_iter().map(|row| serde_json::from_str(&row.row).unwrap()).collect()
    }

    /// Tells whether everything that was accepted is done: no live job, no open order, every lane at the end
    /// of its partition.
    pub(super) fn is_settled(&mut self) -> bool {
        let open = "SELECT (SELECT count(*) FROM jobs WHERE is_live = 1)
             + (SELECT count(*) FROM orders WHERE is_answered = 0)
             + (SELECT count(*) FROM lanes JOIN progress USING (lane)
                JOIN log_head USING (topic, partition)
                WHERE progress.next_offset IS NOT log_head.next_offset)
             + (SELECT count(*) FROM parked_keys WHERE wish <> 'wait') AS number";
        self.number(open) == 0
    }

    /// Lists what is not settled, for a test that gave up.
    pub(super) fn unsettled(&mut self) -> String {
        let jobs = self.rows(
            "'job', job_id, 'status', status, 'attempt', attempt, 'agent', agent",
            "jobs WHERE is_live = 1",
        );
        let orders = self.rows("'job', job_id, 'kind', kind", "orders WHERE is_answered = 0");
        let lanes = self.rows(
            "'group', group_name, 'topic', topic, 'partition', partition, 'next', progress.next_offset, 'end', log_head.next_offset",
            "lanes JOIN progress USING (lane) JOIN log_head USING (topic, partition) WHERE progress.next_offset IS NOT log_head.next_offset",
        );
        let parked = self.rows("'lane', lane, 'wish', wish", "parked_keys WHERE wish <> 'wait'");
        format!("jobs {jobs:?} orders {orders:?} lanes {lanes:?} parked {parked:?}")
    }
}

//! How SQLite would carry out every statement.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};

use diesel::connection::{
    Instrumentation, InstrumentationEvent, SimpleConnection, set_default_instrumentation,
};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::SqliteConnection;
use horizons::db::sqlite::{SqliteConfig, SqliteStore};

use super::fill::{Dialect, Numbers, statements};
use super::{GROWING, rows, used};

const DIALECT: Dialect = Dialect {
    count: |rows| {
        format!(
            "(WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c)"
        )
    },
    bytes: |digits| format!("x'{digits}'"),
    text_bytes: |text| format!("CAST('{text}' AS BLOB)"),
    is: ["1", "0"],
};

/// The folder of the store that is looked at; other tests of this process have stores of their own.
static FOLDER: OnceLock<String> = OnceLock::new();

/// The statements that its connections were given since the test began.
static ASKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes the statements of a connection to that store.
#[derive(Default)]
struct Notes {
    is_of_store: bool,
}

impl Instrumentation for Notes {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartEstablishConnection { url, .. } => {
                self.is_of_store = FOLDER.get().is_some_and(|folder| url.contains(folder));
            }
            InstrumentationEvent::StartQuery { query, .. } if self.is_of_store => {
                let text = query.to_string();
                let statement = text.split(" -- binds:").next().unwrap_or_default();
                ASKED.lock().unwrap().insert(statement.to_owned());
            }
            _ => {}
        }
    }
}

/// A step of a plan.
#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// A number.
#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_no_statement_walks_what_grows() {
    let rows = rows();
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).unwrap();
    let owners = used::begin(&store).await;
    drop(store);
    let file = folder.path().join("horizons.db");
    let mut connection = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    let mut number = |group: &str, partition: u16| -> i64 {
        let select = format!(
            "SELECT lane AS number FROM lanes WHERE group_name = '{group}' AND topic = 0 AND partition = {partition}"
        );
        diesel::sql_query(select).get_result::<Number>(&mut connection).unwrap().number
    };
    let lanes =
        Numbers { jobs: number("jobs", 0), other: number("jobs", 1), auditor: number("audit-trail", 0) };
    for statement in statements(&DIALECT, rows, &lanes) {
        connection.batch_execute(&statement).unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    FOLDER.set(folder.path().to_str().unwrap().to_owned()).unwrap();
    set_default_instrumentation(|| Some(Box::<Notes>::default() as Box<dyn Instrumentation>)).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).unwrap();

    used::everything(&store, owners, rows).await;

    set_default_instrumentation(|| None).unwrap();
    drop(store);
    let asked: Vec<String> = ASKED.lock().unwrap().iter().cloned().collect();
    let mut faults = Vec::new();
    let mut explained = 0;
    for statement in &asked {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        // Statements like PRAGMA have no plan.
        let Ok(steps) = diesel::sql_query(explain).load::<Step>(&mut connection) else { continue };
        explained += 1;
        // What stops at a limit walks an index or the table no further than that.
        let stops = statement.contains("LIMIT") || statement.contains("max(");
        for step in steps {
            let words: Vec<&str> = step.detail.split(' ').collect();
            let table = words.get(1).map_or("", |table| table.trim_matches('`'));
            let is_walk = words.first() == Some(&"SCAN") && GROWING.contains(&table) && !stops;
            // Of parked records a key or an offset must be named, not a lane alone.
            let is_range = table == "parked_records" && step.detail.ends_with("(lane=?)");
            let is_sort = step.detail.contains("USE TEMP B-TREE FOR ORDER BY") && stops;
            if is_walk || is_range || is_sort {
                faults.push(format!("{statement} | {}", step.detail));
            }
        }
    }
    assert!(explained > 80, "only {explained} of {} statements could be explained", asked.len());
    assert!(faults.is_empty(), "{} of {explained} statements:\n{}", faults.len(), faults.join("\n"));
}

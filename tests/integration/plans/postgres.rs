//! What PostgreSQL did with every statement.

use horizons::db::postgres::{ConnectionUrl, PostgresConfig, PostgresStore};
use serde_json::Value;

use super::fill::{Dialect, Numbers, statements};
use super::{GROWING, rows, used};
use crate::services::postgres::{Cluster, unique};

/// Pages that a statement may look at whatever it brings: the way down a few indexes, and triggers.
const PAGES_FREE: f64 = 80.0;

/// Pages that each row may cost beside: its place in several indexes and the table.
const PAGES_PER_ROW: f64 = 12.0;

const DIALECT: Dialect = Dialect {
    count: |rows| format!("generate_series(1, {rows}) AS g (n)"),
    bytes: |digits| format!("'\\x{digits}'::bytea"),
    text_bytes: |text| format!("convert_to('{text}', 'UTF8')"),
    is: ["true", "false"],
};

/// What `auto_explain` is told for every session from now on.
const EXPLAIN: &str = "ALTER DATABASE postgres SET session_preload_libraries = 'auto_explain';
    ALTER DATABASE postgres SET auto_explain.log_min_duration = 0;
    ALTER DATABASE postgres SET auto_explain.log_analyze = on;
    ALTER DATABASE postgres SET auto_explain.log_buffers = on;
    ALTER DATABASE postgres SET auto_explain.log_timing = off;
    ALTER DATABASE postgres SET auto_explain.log_nested_statements = on;
    ALTER DATABASE postgres SET auto_explain.log_format = 'json'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_no_statement_walks_what_grows() {
    let rows = rows();
    let cluster = Cluster::start();
    let schema = unique("plans");
    let mut config = PostgresConfig {
        schema: schema.clone(),
        ..PostgresConfig::new(ConnectionUrl::new(cluster.socket_url()))
    };
    config.statement_timeout = std::time::Duration::from_secs(300);
    let store = PostgresStore::open(config.clone()).unwrap();
    let owners = used::begin(&store).await;
    let number = |group: &str, partition: u16| -> i64 {
        let select = format!(
            "SELECT lane FROM {schema}.lanes WHERE group_name = '{group}' AND topic = 0 AND partition = {partition}"
        );
        cluster.sql(&select).parse().unwrap()
    };
    let lanes =
        Numbers { jobs: number("jobs", 0), other: number("jobs", 1), auditor: number("audit-trail", 0) };
    for statement in statements(&DIALECT, rows, &lanes) {
        cluster.sql(&format!("SET search_path = {schema}; {statement}"));
    }
    cluster.sql("ANALYZE");
    drop(store);
    cluster.sql(EXPLAIN);
    let store = PostgresStore::open(config).unwrap();

    used::everything(&store, owners, rows).await;

    drop(store);
    let plans = plans(&cluster.log());
    assert!(plans.len() > 500, "only {} statements were told of", plans.len());
    let mut faults: Vec<String> = plans.iter().filter_map(fault_of).collect();
    faults.sort();
    faults.dedup_by_key(|fault| fault.split(" | ").next().map(str::to_owned));
    assert!(faults.is_empty(), "{} of {} statements:\n{}", faults.len(), plans.len(), faults.join("\n"));
}

/// Reads the plans out of the server's log: lines that belong to the one before begin with a tab.
fn plans(log: &str) -> Vec<Value> {
    let mut plans = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.trim_end().ends_with("plan:") {
            continue;
        }
        let mut text = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
            text.push_str(more.trim_start_matches('\t'));
            text.push('\n');
        }
        plans.push(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
    }
    plans
}

/// Says what is wrong with what a statement did.
fn fault_of(plan: &Value) -> Option<String> {
    let top = &plan["Plan"];
    let mut seen = Seen { rows: brought(top), ..Seen::default() };
    seen.look(top);
    if seen.growing.is_empty() {
        return None;
    }
    let number = |name: &str| top[name].as_f64().unwrap_or_default();
    let pages = number("Shared Hit Blocks") + number("Shared Read Blocks");
    let allowed = PAGES_FREE + PAGES_PER_ROW * seen.rows;
    let is_too_much = pages > allowed;
    let query: String = plan["Query Text"].as_str()?.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = format!(
        "{query} | {pages} pages for {} rows of {:?}, walked: {:?}",
        seen.rows, seen.growing, seen.walked
    );
    (is_too_much || !seen.walked.is_empty()).then_some(told)
}

/// What the nodes of a plan say.
#[derive(Default)]
struct Seen {
    growing: Vec<String>,
    walked: Vec<String>,
    /// Rows that were brought or written.
    rows: f64,
}

impl Seen {
    fn look(&mut self, node: &Value) {
        if let Some(table) = node["Relation Name"].as_str().filter(|table| GROWING.contains(table)) {
            self.growing.push(table.to_owned());
            if node["Node Type"] == "Seq Scan" {
                self.walked.push(table.to_owned());
            }
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            if node["Node Type"] == "ModifyTable" {
                self.rows += brought(child);
            }
            self.look(child);
        }
    }
}

/// How many rows a node brought.
fn brought(node: &Value) -> f64 {
    let of = |name: &str| node[name].as_f64().unwrap_or_default();
    of("Actual Rows") * of("Actual Loops")
}

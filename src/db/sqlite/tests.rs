//! The SQLite store: the contract of every store, and what only this engine promises.

use super::{SqliteConfig, SqliteStore};
use crate::db::error::OpenError;
use crate::db::log_choice::{LogChoice, kafka_log_id};

mod contract {
    use std::sync::Arc;

    use tempfile::TempDir;

    use crate::db::sqlite::{SqliteConfig, SqliteStore};

    fn new_store() -> (Arc<SqliteStore>, TempDir) {
        let folder = TempDir::new().unwrap();
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).unwrap();
        (Arc::new(store), folder)
    }

    horizons_actors::store_contract!(new_store());
    horizons_actors::outbox_contract!(new_store());
}

#[test]
fn audit_scan_walks_runs_in_order_without_sorting() {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    use diesel::sql_types::Text;

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Text)]
        detail: String,
    }
    let folder = tempfile::TempDir::new().unwrap();
    drop(super::SqliteStore::open(super::SqliteConfig::new(folder.path())).unwrap());
    let mut connection =
        super::connection::check_readable(&super::connection::database_file(folder.path())).unwrap();
    connection.batch_execute("PRAGMA automatic_index = OFF").unwrap();

    let steps: Vec<Step> = diesel::sql_query(format!("EXPLAIN QUERY PLAN {}", super::engine::SCAN))
        .load(&mut connection)
        .unwrap();

    let plan: Vec<&str> = steps.iter().map(|step| step.detail.as_str()).collect();
    assert!(plan.iter().any(|step| step.starts_with("SEARCH e USING INTEGER PRIMARY KEY")), "{plan:?}");
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE") || step.starts_with("SCAN r")), "{plan:?}");
    assert!(!plan.iter().any(|step| step.starts_with("SCAN e") || step.starts_with("SCAN b")), "{plan:?}");
}

#[test]
fn ends_that_another_connection_moved_are_read() {
    use diesel::connection::SimpleConnection;
    use horizons_actors::ids::{Offset, Partition, Topic, TopicPartition};
    use horizons_actors::ports::log::RecordSource;

    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(folder.path());
    let store = SqliteStore::open(config.clone()).unwrap();
    let partition = TopicPartition { topic: Topic::JobMetrics, partition: Partition(3) };
    let topic = Topic::JobMetrics.code();
    let mut other = super::connection::open_writer(&config).unwrap();
    other
        .batch_execute(&format!(
            "INSERT INTO log_head (topic, partition, next_offset) VALUES ({topic}, 3, 7)"
        ))
        .unwrap();

    RecordSource::refresh_heads(&store).unwrap();

    assert_eq!(store.heads().end(partition), Offset(7));
}

#[test]
fn open_for_another_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let of_kafka = |cluster: &str| SqliteConfig {
        log: LogChoice::Kafka(kafka_log_id(cluster, "").unwrap()),
        ..SqliteConfig::new(folder.path())
    };
    let remembered = || SqliteConfig { log: LogChoice::RememberedKafka, ..SqliteConfig::new(folder.path()) };
    assert!(matches!(SqliteStore::open(remembered()), Err(OpenError::NoLog)));

    drop(SqliteStore::open(of_kafka("one")).unwrap());

    let refused = SqliteStore::open(of_kafka("two")).unwrap_err().to_string();
    assert!(refused.contains("`kafka:one`") && refused.contains("`kafka:two`"), "{refused}");
    let refused = SqliteStore::open(SqliteConfig::new(folder.path())).unwrap_err().to_string();
    assert!(refused.contains("the embedded one is configured"), "{refused}");
    assert_eq!(SqliteStore::open(remembered()).unwrap().log_id().as_str(), "kafka:one");
}

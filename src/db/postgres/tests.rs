//! The PostgreSQL store: the contract of every store, and what only this engine promises.

use super::{ConnectionUrl, PostgresConfig};

#[expect(dead_code, reason = "the other test binary uses all of it")]
#[path = "../../../tests/integration/services/postgres.rs"]
mod server;

/// Gives the settings of a store in a schema of its own on the shared server.
fn config() -> PostgresConfig {
    PostgresConfig {
        schema: server::unique("unit"),
        ..PostgresConfig::new(ConnectionUrl::new(server::shared().socket_url()))
    }
}

mod contract {
    use std::sync::Arc;

    use crate::db::postgres::PostgresStore;

    fn new_store() -> (Arc<PostgresStore>, ()) {
        (Arc::new(PostgresStore::open(super::config()).unwrap()), ())
    }

    horizons_actors::store_contract!(new_store());
    horizons_actors::outbox_contract!(new_store());
}

mod outbox_contract {
    use std::sync::Arc;

    use crate::db::postgres::PostgresStore;

    fn new_store() -> (Arc<PostgresStore>, ()) {
        (Arc::new(PostgresStore::open(super::config()).unwrap()), ())
    }

    horizons_actors::outbox_contract!(new_store());
}

mod bare {
    use bytes::Bytes;
    use horizons_actors::clock::Timestamp;
    use horizons_actors::ids::{LogTopic, Partition, Topic};
    use horizons_actors::record::{Headers, OutgoingRecord};

    use crate::db::postgres::{BareCopy, PostgresReader, checkpoint, remove_schema};

    fn record(number: u8) -> OutgoingRecord {
        OutgoingRecord {
            topic: LogTopic::Record(Topic::JobLifecycle),
            partition: Partition(0),
            timestamp: Timestamp::from_millis(1),
            key: (number > 0).then(|| Bytes::from(vec![number])),
            headers: Headers::none(),
            payload: Some(Bytes::from(vec![number; 300])),
        }
    }

    #[test]
    fn bare_copy_every_record_has_an_entry_and_a_body() {
        let config = super::config();
        let mut sink = BareCopy::open(&config).unwrap();

        sink.copy(&[record(0), record(1)]).unwrap();
        sink.copy(&[record(2)]).unwrap();

        assert_eq!(sink.rows().unwrap(), (3, 3));
    }

    #[test]
    fn remove_schema_everything_in_it_is_gone() {
        let config = super::config();
        let mut sink = BareCopy::open(&config).unwrap();
        sink.copy(&[record(1)]).unwrap();
        drop(sink);
        checkpoint(&config).unwrap();

        remove_schema(&config).unwrap();
        remove_schema(&config).unwrap();

        assert!(PostgresReader::open(&config).is_err());
        assert!(BareCopy::open(&config).is_ok(), "the name is free again");
    }
}

mod ends {
    use diesel::connection::SimpleConnection;
    use horizons_actors::ids::{Offset, Partition, Topic, TopicPartition};
    use horizons_actors::ports::log::RecordSource;

    use crate::db::postgres::{PostgresStore, connection};

    #[test]
    fn ends_that_another_process_moved_are_read() {
        let config = super::config();
        let store = PostgresStore::open(config.clone()).unwrap();
        let partition = TopicPartition { topic: Topic::JobMetrics, partition: Partition(3) };
        let topic = Topic::JobMetrics.code();
        let mut other = connection::open(&config).unwrap();
        other
            .batch_execute(&format!(
                "INSERT INTO log_head (topic, partition, next_offset) VALUES ({topic}, 3, 7)"
            ))
            .unwrap();

        RecordSource::refresh_heads(&store).unwrap();

        assert_eq!(store.heads().end(partition), Offset(7));
    }
}

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

#[test]
fn bare_copy_rows_of_a_batch_stand_in_both_tables() {
    use horizons_actors::ids::Topic;
    use horizons_actors::testkit::contract::sample::{log_record, partition};

    let mut bare = super::BareCopy::open(&config()).unwrap();
    let records = (0..20).map(|offset| log_record(offset, None, "payload")).collect();

    bare.insert(&[(partition(Topic::JobMetrics, 1), records)]).unwrap();

    assert_eq!(bare.rows().unwrap(), (20, 20));
}

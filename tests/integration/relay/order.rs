//! Order and completeness without faults.

use std::time::Duration;

use horizons_actors::ports::outbox::OutboxStore;

use super::world::{
    Expected, append, check, create_topics, metric, new_prefix, new_store, relay_config, start_with,
    wait_sent, wait_status,
};
use crate::services::kafka::Kafka;
use crate::services::wait::wait_for;

/// Rows that are sent.
const ROWS: u64 = 50_000;

#[test]
fn relay_many_rows_over_all_partitions_arrive_once_in_order() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    append(store.as_ref(), &mut expected, 0, ROWS / 2);

    let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    append(store.as_ref(), &mut expected, ROWS / 2, ROWS);
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
    assert_eq!(metric(&registry, "horizons_published_records_total"), ROWS as f64);
    assert_eq!(metric(&registry, "horizons_publish_seconds"), ROWS as f64);
    assert_eq!(metric(&registry, "horizons_published_record_bytes"), ROWS as f64);
    assert_eq!(metric(&registry, "horizons_publish_rebuilds_total"), 0.0);
    wait_status(&relay, "the status to tell that nothing waits", |status| {
        status.is_leader() && status.waiting_records == 0 && status.in_flight_bytes == 0
    });
    assert_eq!(metric(&registry, "horizons_relay_is_leader"), 1.0);
    assert_eq!(metric(&registry, "horizons_outbox_waiting_records"), 0.0);
    // 50 000 rows over 43 partitions: each keeps its last thousand.
    wait_for("sent rows to be removed", || metric(&registry, "horizons_outbox_removed_records_total") > 0.0);
    relay.stop(Duration::from_secs(10));
}

#[test]
fn relay_topic_that_comes_later_waits_visibly_and_flows_then() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    append(store.as_ref(), &mut expected, 0, 500);
    let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));

    wait_status(&relay, "partitions to wait for their topics", |status| {
        let waits = status
            .partitions
            .iter()
            .filter(|one| matches!(one.condition, horizons::kafka::relay::PartitionCondition::Waiting(_)));
        waits.count() == expected.len() && status.waiting_records == 500 && !status.oldest.is_zero()
    });
    create_topics(kafka.direct(), &prefix, 1);
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
    assert!(metric(&registry, "horizons_publish_failures_total") > 0.0);
    assert!(relay.status().stopped().next().is_none());
}

#[test]
fn relay_stopped_in_order_leaves_cursors_at_the_end() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    append(store.as_ref(), &mut expected, 0, 5_000);
    let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));

    wait_for("something to be published", || metric(&registry, "horizons_published_records_total") > 0.0);
    relay.stop(Duration::from_secs(30));

    let cursors = store.cursors().unwrap();
    let stored: u64 = cursors.iter().map(|cursor| cursor.next.0).sum();
    assert_eq!(stored as f64, metric(&registry, "horizons_published_records_total"));
}

//! What only the PostgreSQL store promises: its schema, its roles, its leases, and what it does when the server
//! or the way there fails. What every store promises is tested by the contract of the test kit, beside the
//! adapter.

#![expect(clippy::panic, reason = "clippy knows test functions, but not what they share")]

/// Rights, triggers, migrations and leases.
mod guards;
/// Two processes that write the same things, each in its own order.
mod order;
/// Restarts, cut connections, lost answers, black holes.
mod outages;
/// A connection pooler in front of the server.
mod pooler;

use std::sync::Arc;

use horizons::db::postgres::{ConnectionUrl, PostgresConfig, PostgresStore};
use horizons_actors::effect::Effects;
use horizons_actors::ids::{LaneKey, ProcessId, Topic};
use horizons_actors::ports::store::{CommitError, LaneStore, Progress};
use horizons_actors::testkit::contract::sample::{Owner, audit, auditor_lane, outgoing, partition};

use crate::services::postgres::{Cluster, unique};

/// Gives the settings of a store in a schema of its own.
fn config(url: String) -> PostgresConfig {
    PostgresConfig { schema: unique("store"), ..PostgresConfig::new(ConnectionUrl::new(url)) }
}

/// Opens a store.
fn open(config: &PostgresConfig) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(config.clone()).unwrap())
}

/// Gives a process that opens lanes; who it is does not matter here.
fn process() -> ProcessId {
    ProcessId(uuid::Uuid::from_u128(1))
}

/// Names a lane of the auditor, and gives what its nth transaction writes: an entry and a record of the log.
fn lane(number: u16) -> LaneKey {
    auditor_lane(Topic::JobMetrics, number)
}

fn effects(number: u16, step: u64) -> Effects {
    let mut effects = audit(step, &["key"]);
    effects.outbox.push(outgoing(partition(Topic::AuditTrail, number), &format!("{step}")));
    effects
}

/// Drives a lane through steps that each must be written once, whatever fails; gives how often an outcome was
/// not known.
async fn drive(store: &PostgresStore, number: u16, steps: u64) -> u64 {
    let opened = loop {
        match store.open_lane(lane(number), process()).await {
            Ok(opened) => break opened,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let mut owner = Owner::new(lane(number), &opened);
    let mut unknown = 0;
    for step in 0..steps {
        loop {
            let error = match store.commit(owner.step(effects(number, step))).await {
                Ok(committed) => {
                    owner.stepped(&committed);
                    break;
                }
                Err(error) => error,
            };
            match &error {
                CommitError::Unknown(_) => unknown += 1,
                CommitError::Store(error) => assert!(error.is_transient(), "{error}"),
                CommitError::Fenced => panic!("fenced at step {step}"),
            }
            let progress = read_again(store, number).await;
            if progress.fence == owner.fence {
                continue;
            }
            assert_eq!(progress.fence.revision, owner.fence.revision.following());
            assert_eq!(progress.fence.epoch, owner.fence.epoch);
            owner.fence = progress.fence;
            owner.next = progress.next;
            break;
        }
    }
    unknown
}

/// Reads the progress of a lane until the database answers.
async fn read_again(store: &PostgresStore, number: u16) -> Progress {
    loop {
        match store.read_progress(lane(number)).await {
            Ok(progress) => return progress.unwrap(),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Checks that lanes have exactly their steps: positions, entries, bodies and records.
fn assert_exact(cluster: &Cluster, schema: &str, lanes: u16, steps: u64) {
    let total = u64::from(lanes) * steps;
    let counts = cluster.sql(&format!(
        "SELECT (SELECT count(*) FROM {schema}.progress WHERE next_offset = {steps} AND revision = {steps}),
                (SELECT count(*) FROM {schema}.audit_logs WHERE size = {steps}),
                (SELECT sum(entries) FROM {schema}.audit_runs),
                (SELECT count(*) FROM {schema}.audit_entries),
                (SELECT count(*) FROM {schema}.audit_bodies),
                (SELECT count(*) FROM {schema}.log),
                (SELECT sum(next_offset) FROM {schema}.log_head)"
    ));
    assert_eq!(counts, format!("{lanes}|{lanes}|{total}|{total}|{total}|{total}|{total}"));
}

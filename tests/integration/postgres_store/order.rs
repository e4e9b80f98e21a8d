//! Two processes that write the same things, each in its own order.

use std::time::Duration;

use futures_util::future::join_all;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{LaneKey, Topic};
use horizons_actors::ports::store::{
    Idempotency, JobRow, JobStore, JobWrite, JobWritten, LaneStore, StoreError,
};
use horizons_actors::testkit::contract::sample::{
    Owner, at, change, id, job, jobs_lane, outgoing, partition, submit,
};

use super::{config, open, process};
use crate::services::postgres::shared;

/// Jobs, names and lanes that both write in one round.
const THINGS: u16 = 10;

const ROUNDS: u64 = 20;

/// Gives what one process does in a round: in the order of numbers, or against it.
fn in_turn<T>(is_reversed: bool, of: impl Fn(u16) -> T) -> Vec<T> {
    let numbers = 0..THINGS;
    if is_reversed { numbers.rev().map(of).collect() } else { numbers.map(of).collect() }
}

fn named(round: u64, number: u16, process: usize) -> JobWrite {
    let key = format!("key-{round}-{number}");
    let idempotency = Idempotency { user_id: id("ada"), key, request_digest: [1; 32] };
    let row = job(&format!("named-{round}-{number}-{process}"), at(1));
    JobWrite { idempotency: Some(idempotency), ..submit(row) }
}

/// Lanes that one process owns.
fn lane(process: usize, number: u16) -> LaneKey {
    let topic = [Topic::JobMetrics, Topic::JobLifecycle][process];
    LaneKey { topic_partition: partition(topic, number), ..jobs_lane(0) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_the_same_jobs_names_and_lanes_never_wait_in_a_circle() {
    let mut config = config(shared().socket_url());
    // What is asked meanwhile goes into one commit.
    config.commit_delay = Some(Duration::from_millis(20));
    let stores = [open(&config), open(&config)];
    let mut rows: Vec<JobRow> = in_turn(false, |number| job(&format!("job-{number}"), at(1)));
    join_all(rows.iter().map(|row| stores[0].write_job(submit(row.clone())))).await;
    let mut owners: Vec<Vec<Owner>> = Vec::new();
    for (process_number, store) in stores.iter().enumerate() {
        let opened = in_turn(false, |number| store.open_lane(lane(process_number, number), process()));
        let opened = join_all(opened).await.into_iter().map(Result::unwrap);
        owners.push(
            (0..)
                .zip(opened)
                .map(|(number, opened)| Owner::new(lane(process_number, number), &opened))
                .collect(),
        );
    }

    for round in 0..ROUNDS {
        let status = if round % 2 == 0 { JobStatus::Queued } else { JobStatus::Running };
        let one = async |process: usize| {
            let (store, is_reversed, own) = (&stores[process], process == 1, &owners[process]);
            // The other's lanes are asked about while it writes them.
            let asked = in_turn(is_reversed, |number| {
                store.resume_lane(lane(1 - process, number), outgoing(partition(Topic::AuditTrail, 0), "act"))
            });
            let changed =
                in_turn(is_reversed, |number| store.write_job(change(&rows[usize::from(number)], status)));
            let made = in_turn(is_reversed, |number| store.write_job(named(round, number, process)));
            let committed = in_turn(is_reversed, |number| {
                store.commit(own[usize::from(number)].step(super::effects(number, round)))
            });
            let (asked, changed, made, committed) =
                tokio::join!(join_all(asked), join_all(changed), join_all(made), join_all(committed));
            assert!(asked.iter().all(Result::is_ok), "{asked:?}");
            (changed, made, committed)
        };
        let (first, second) = tokio::join!(one(0), one(1));
        for (process, (changed, made, committed)) in [first, second].into_iter().enumerate() {
            let written: Result<Vec<JobWritten>, StoreError> = changed.into_iter().chain(made).collect();
            written.unwrap();
            let committed = in_turn(process == 1, |number| number).into_iter().zip(committed);
            for (number, committed) in committed {
                owners[process][usize::from(number)].stepped(&committed.unwrap());
            }
        }
        let read = join_all(rows.iter().map(|row| stores[0].read_job(row.job_id.clone()))).await;
        rows = read.into_iter().map(|row| row.unwrap().unwrap()).collect();
    }

    let schema = &config.schema;
    let counts = shared().sql(&format!(
        "SELECT (SELECT sum(lifecycle_sequence) FROM {schema}.jobs WHERE job_id LIKE 'job-%'),
                (SELECT count(*) FROM {schema}.jobs WHERE job_id LIKE 'named-%'),
                (SELECT sum(revision) FROM {schema}.progress)"
    ));
    let things = u64::from(THINGS);
    assert_eq!(counts, format!("{}|{}|{}", things * (ROUNDS + 1), things * ROUNDS, 2 * things * ROUNDS));
}

//! Restarts, cut connections, lost answers, black holes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use horizons_actors::ports::store::{CommitError, LaneStore};
use horizons_actors::testkit::contract::sample::Owner;

use super::{assert_exact, config, drive, effects, lane, open, process, read_again};
use crate::services::postgres::{Cluster, shared};
use crate::services::proxy::{Cut, Direction, FaultProxy, Faults};

/// How often a server is killed under load.
const KILLS: u32 = 5;

/// Lanes of a test under load.
const LANES: u16 = 4;

/// Drives several lanes at once while something goes wrong on a thread of its own, again and again.
async fn drive_while(
    config: &horizons::db::postgres::PostgresConfig,
    steps: u64,
    mut fault: impl FnMut() + Send + 'static,
) -> u64 {
    let store = open(config);
    let is_over = Arc::new(AtomicBool::new(false));
    let faults = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut count = 0;
            while !is_over.load(Ordering::SeqCst) {
                fault();
                count += 1;
                std::thread::park_timeout(Duration::from_millis(20));
            }
            count
        }
    });
    let lanes: Vec<_> = (0..LANES)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { drive(&store, number, steps).await })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    faults.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_terminated_in_a_loop_lose_and_double_nothing() {
    let config = config(shared().url());
    let schema = config.schema.clone();
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'horizons' AND query LIKE '%' AND pid <> pg_backend_pid()
                       AND pid IN (SELECT pid FROM pg_locks WHERE relation = to_regclass($$SCHEMA.progress$$))"
        .replace("SCHEMA", &schema);

    let count = drive_while(&config, 300, move || drop(shared().sql(&terminate))).await;

    assert!(count > 3, "only {count} rounds of terminating");
    assert_exact(shared(), &config.schema, LANES, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_killed_and_restarted_under_load_loses_and_doubles_nothing() {
    let cluster = Arc::new(std::sync::Mutex::new(Cluster::start()));
    let mut config = config(cluster.lock().unwrap().socket_url());
    config.reconnect_max = Duration::from_millis(100);
    let killer = Arc::clone(&cluster);
    let kills = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&kills);

    drive_while(&config, 400, move || {
        // A recovery takes seconds: without an end of the ends nothing would be committed between two of them.
        std::thread::park_timeout(Duration::from_millis(200));
        if counter.fetch_add(1, Ordering::SeqCst) >= KILLS {
            return;
        }
        let mut cluster = killer.lock().unwrap();
        cluster.kill();
        cluster.restart();
    })
    .await;

    assert!(kills.load(Ordering::SeqCst) > 0);
    assert_exact(&cluster.lock().unwrap(), &config.schema, LANES, 400);
}

/// Stands in front of the shared server.
fn proxy() -> FaultProxy {
    FaultProxy::in_front_of(SocketAddr::from((Ipv4Addr::LOCALHOST, shared().port())))
}

fn through(proxy: &FaultProxy) -> String {
    format!("postgres://horizons@127.0.0.1:{}/postgres", proxy.port())
}

/// Tells whether the message that came last is the one that commits; an earlier one may stand before it.
fn is_commit(bytes: &[u8]) -> bool {
    bytes.ends_with(b"COMMIT\0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_answer_lost_after_it_was_done_is_found_done() {
    let proxy = proxy();
    let config = config(through(&proxy));
    let store = open(&config);
    let opened = store.open_lane(lane(0), process()).await.unwrap();
    let owner = Owner::new(lane(0), &opened);
    proxy.cut_behind(Direction::Up, is_commit, Cut::Reset);

    let outcome = store.commit(owner.step(effects(0, 0))).await;
    let progress = read_again(&store, 0).await;

    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
    assert_eq!(progress.fence.revision, owner.fence.revision.following());
    assert_exact(shared(), &config.schema, 1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_lost_on_its_way_is_found_not_done() {
    let proxy = proxy();
    let config = config(through(&proxy));
    let store = open(&config);
    let opened = store.open_lane(lane(0), process()).await.unwrap();
    let owner = Owner::new(lane(0), &opened);
    proxy.cut_before(Direction::Up, is_commit, Cut::Reset);

    let outcome = store.commit(owner.step(effects(0, 0))).await;
    let progress = read_again(&store, 0).await;
    let again = store.commit(owner.step(effects(0, 0))).await;

    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
    assert_eq!(progress.fence, owner.fence);
    assert!(again.is_ok(), "{again:?}");
    assert_exact(shared(), &config.schema, 1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_held_up_on_its_way_is_done_once_when_the_way_is_free() {
    let proxy = proxy();
    let config = config(through(&proxy));
    let store = open(&config);
    let opened = store.open_lane(lane(0), process()).await.unwrap();
    let owner = Owner::new(lane(0), &opened);
    proxy.set(Faults { hold: true, ..Faults::default() });

    let waiting = tokio::spawn(store.commit(owner.step(effects(0, 0))));
    let away = tokio::time::timeout(Duration::from_millis(500), store.read_progress(lane(0))).await;
    proxy.heal();
    let outcome = waiting.await.unwrap();

    assert!(away.is_err(), "{away:?}");
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_exact(shared(), &config.schema, 1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_away_answers_quickly_and_comes_back_by_itself() {
    let mut cluster = Cluster::start();
    let config = config(cluster.socket_url());
    let store = open(&config);
    drive(&store, 0, 1).await;
    cluster.kill();

    // The first finds the connection cut; those after it find none.
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let asked_at = Instant::now();
        let answer = store.read_progress(lane(0)).await;
        slowest = slowest.max(asked_at.elapsed());
        assert!(matches!(&answer, Err(error) if error.is_transient()), "{answer:?}");
    }
    cluster.restart();
    let progress = read_again(&store, 0).await;

    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(progress.fence.revision.0, 1);
}

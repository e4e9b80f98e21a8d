//! The auditor's group alone, from an open store to the end of the log.
//!
//! Promises the parts that `serve` runs (reader, dispatcher, lanes, supervisor, store) with the same settings,
//! without the other groups, HTTP and the scheduler; and an end when nothing moves any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::Actor;
use actix_rt::Arbiter;
use horizons_actors::clock::{SystemClock, SystemRandomness};
use horizons_actors::event::decode;
use horizons_actors::ids::Group;
use horizons_actors::lane::behaviour::BehaviourFactory;
use horizons_actors::lane::environment::{Decoder, LaneEnvironment};
use horizons_actors::lane::fault::NoFaults;
use horizons_actors::lane::notice::{CommitListener, CommitNotice};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::metrics::LaneMetrics;
use horizons_actors::ports::log::RecordSource;
use horizons_actors::supervisor::Supervisor;
use horizons_actors::supervisor::message::StopAll;
use prometheus::Registry;
use tokio::sync::Notify;

use super::lens::Lens;
use crate::app::{auditor, escalate, groups, lane_settings, log};
use crate::config::Config;
use crate::db::sqlite::SqliteStore;
use crate::exit::{Exit, Failure};

/// How long no record may be committed before the run is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Counts what is committed and notes when the last record was.
struct Finish {
    wanted: u64,
    seen: AtomicU64,
    at: Mutex<Option<Instant>>,
    reached: Notify,
}

impl Finish {
    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitListener for Finish {
    fn committed(&self, notice: &CommitNotice) {
        let count = notice.outcomes.len() as u64;
        let seen = self.seen.fetch_add(count, Ordering::Relaxed) + count;
        if count > 0 && seen >= self.wanted {
            self.at.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            self.reached.notify_one();
        }
    }
}

/// Lets the auditor read the whole log; gives the time from its start to its last commit.
///
/// *Errors*: when it stands still for [`STALL_LIMIT`].
pub(super) async fn run(
    config: &Config,
    store: &Arc<SqliteStore>,
    records: u64,
    lens: Option<&Arc<Lens>>,
) -> Result<Duration, Failure> {
    let finish = Arc::new(Finish {
        wanted: records,
        seen: AtomicU64::new(0),
        at: Mutex::new(None),
        reached: Notify::new(),
    });
    let (decoder, source, behaviour): (Decoder, Arc<dyn RecordSource>, BehaviourFactory) = match lens {
        None => (Arc::new(decode), Arc::clone(store) as _, auditor(config)),
        Some(lens) => (lens.decoder(), lens.source(Arc::clone(store) as _), lens.behaviour(auditor(config))),
    };
    let environment = Arc::new(LaneEnvironment {
        log_id: store.log_id(),
        store: Arc::clone(store) as _,
        clock: Arc::new(SystemClock),
        randomness: Arc::new(SystemRandomness),
        decoder,
        listener: Arc::clone(&finish) as _,
        faults: Arc::new(NoFaults),
        metrics: LaneMetrics::register(&Registry::new())
            .map_err(|error| Failure::new(Exit::Failed, &error))?,
        board: Arc::new(StatusBoard::default()),
        settings: lane_settings(config),
        started: Instant::now(),
    });
    let log = log::open(config, store.log_id(), source)?;
    let dispatch = Arbiter::new();
    let data: Vec<Arbiter> = (0..config.lanes.arbiters).map(|_| Arbiter::new()).collect();

    let start = Instant::now();
    let supervisor = Supervisor::new(
        groups(config, log, &environment, data.iter().map(Arbiter::handle), vec![behaviour]),
        config.lanes.restart,
        Some(dispatch.handle()),
        Arc::new(|group: &Group, failure: &str| escalate(group.as_str(), failure)),
    )
    .start();
    let end = until_done(&finish).await;

    if supervisor.send(StopAll { within: config.lanes.drain_timeout }).await.is_err() {
        tracing::warn!("the supervisor had ended before it was asked to");
    }
    for arbiter in data.into_iter().chain([dispatch]) {
        arbiter.stop();
        if arbiter.join().is_err() {
            return Err(Failure::text(Exit::Failed, "a thread of lanes ended by a panic"));
        }
    }
    Ok(end?.duration_since(start))
}

async fn until_done(finish: &Finish) -> Result<Instant, Failure> {
    let mut seen_before = 0;
    loop {
        if let Some(at) = finish.at() {
            return Ok(at);
        }
        if tokio::time::timeout(STALL_LIMIT, finish.reached.notified()).await.is_ok() {
            continue;
        }
        let seen = finish.seen.load(Ordering::Relaxed);
        if seen == seen_before {
            let wanted = finish.wanted;
            return Err(Failure::text(
                Exit::Failed,
                format!(
                    "failed to read the log to its end: wanted {wanted} records, got {seen} and then none for {} s",
                    STALL_LIMIT.as_secs()
                ),
            ));
        }
        seen_before = seen;
    }
}

//! What of this process is probed.

use std::future::Future;
use std::sync::Arc;

use horizons_actors::clock::Clock;
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::relay::RelayView;
use horizons_actors::probes::{ProbeBoard, ProbeState};
use tokio::task::AbortHandle;

use super::log::BrokersSeen;
use super::relay::RelayPort;
use crate::disk::DiskState;
use crate::orchestrator::Orchestrator;
use crate::presence::Presence;
use crate::probes::{
    DiskProbe, EventLogProbe, FolderProbe, LOOK_GAP, LaneProbes, OPENING_LIMIT, ProbeSource, Probes,
    RelayProbe, STORE_LIMIT, SchedulerProbe, StoreProbe, ThreadsProbe,
};
use crate::scheduler::local::Troubles;

/// What there is to look at.
pub(super) struct Probed {
    pub(super) store: Arc<dyn QueryStore>,
    pub(super) disk: Arc<DiskState>,
    pub(super) presence: Arc<Presence>,
    pub(super) board: Arc<StatusBoard>,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether the brokers have answered, where the event log is on Kafka.
    pub(super) brokers: Option<BrokersSeen>,
    /// The relay, where the event log is on Kafka.
    pub(super) relay: Option<Arc<RelayPort>>,
    pub(super) orchestrator: Orchestrator,
    /// Attempts that cannot be ended.
    pub(super) troubles: Arc<Troubles>,
    /// What drives jobs, where that is done here.
    pub(super) driver: Option<AbortHandle>,
}

/// Starts to look at everything, until told to stop.
pub(super) fn start(
    probed: Probed,
    runtime: &tokio::runtime::Runtime,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Arc<Probes> {
    let Probed { store, disk, presence, board, clock, brokers, relay, orchestrator, troubles, driver } =
        probed;
    let event_log = match brokers {
        None => EventLogProbe::embedded(Arc::clone(&board)),
        Some(brokers) => EventLogProbe::on_kafka(Arc::clone(&board), move || brokers.have_answered()),
    };
    let mut sources: Vec<Arc<dyn ProbeSource>> = vec![
        Arc::new(StoreProbe::new(store, STORE_LIMIT)),
        Arc::new(DiskProbe::new(disk)),
        Arc::new(FolderProbe::new(presence)),
        Arc::new(ThreadsProbe),
        Arc::new(event_log),
        Arc::new(LaneProbes::new(board, Arc::clone(&clock), OPENING_LIMIT)),
        Arc::new(SchedulerProbe::new(move || scheduler(&orchestrator, &troubles, driver.as_ref()))),
    ];
    if let Some(relay) = relay {
        sources.push(Arc::new(RelayProbe::new(relay as Arc<dyn RelayView>)));
    }
    let probes = Arc::new(Probes::new(Arc::new(ProbeBoard::default()), clock, sources, LOOK_GAP));
    runtime.spawn(Arc::clone(&probes).keep_looking(stopped));
    probes
}

/// Tells how driving jobs stands.
fn scheduler(
    orchestrator: &Orchestrator,
    troubles: &Troubles,
    driver: Option<&AbortHandle>,
) -> (ProbeState, String) {
    match (driver, orchestrator.scheduler_trouble().or_else(|| unended(troubles))) {
        (None, _) => (ProbeState::Ok, "another process drives jobs".to_owned()),
        (Some(driver), _) if driver.is_finished() => {
            (ProbeState::Failed, "what drives jobs has ended: start the process again".to_owned())
        }
        (Some(_), Some(trouble)) => (ProbeState::Degraded, trouble),
        (Some(_), None) => (ProbeState::Ok, "takes jobs".to_owned()),
    }
}

/// Tells of attempts that cannot be ended.
fn unended(troubles: &Troubles) -> Option<String> {
    let all = troubles.all();
    let (id, trouble) = all.first_key_value()?;
    let more = match all.len() {
        1 => String::new(),
        number => format!(", and {} more", number - 1),
    };
    Some(format!("attempt `{id}` cannot be ended: {trouble}{more}"))
}

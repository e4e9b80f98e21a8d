//! HTTP: reads through the query port, commands through [`Commands`], health and metrics of the process.
//!
//! Promises that every refusal and failure is `application/problem+json` that says which field and why; that
//! nothing is asked of the store for a request that is refused; and that all a handler needs is in its
//! [`AppState`], nothing global. Reads show committed data only and may be a moment behind what was answered
//! to a command. There are no tokens yet (design D17): loopback only, and the header `X-Horizons-User` is
//! believed.
//!
//! `schemas/openapi.json` describes the routes and is held against them by a test; `docs/api.md` is for people.

mod access;
mod actors;
mod answer;
mod audit;
mod dead_letters;
mod document;
mod error;
mod gaps;
mod gate;
mod health;
mod jobs;
mod lanes;
mod lists;
mod metrics;
mod output;
mod parked;
mod patience;
mod records;
mod relay;
mod request;
mod route;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use horizons_actors::clock::{Clock, Randomness};
use horizons_actors::ids::{AttemptId, LogId};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::metrics::LaneMetrics;
use horizons_actors::ports::commands::Commands;
use horizons_actors::ports::output::AttemptOutput;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::relay::RelayView;
use prometheus::Registry;

pub use server::{HttpLimits, ServeError, Served, serve};

use crate::disk::{AttemptSpace, DiskState};
use crate::metrics::ProcessMetrics;
use crate::probes::Probes;
use lists::Lists;
use route::Route;

/// Tells which attempts cannot be ended, each with what is in the way.
pub type AttemptTroubles = Arc<dyn Fn() -> BTreeMap<AttemptId, String> + Send + Sync>;

/// Tells what an attempt takes on the disk; reads a small file, so it is asked where waiting is allowed.
pub type AttemptSpaceOf = Arc<dyn Fn(&AttemptId) -> Option<AttemptSpace> + Send + Sync>;

/// What the handlers are given.
#[derive(Clone)]
pub struct AppState {
    /// Reads.
    pub queries: Arc<dyn QueryStore>,
    /// Carries commands out.
    pub commands: Arc<dyn Commands>,
    /// Reads what attempts write.
    pub output: Arc<dyn AttemptOutput>,
    /// The relay, where the event log is on Kafka.
    pub relay: Option<Arc<dyn RelayView>>,
    /// How lanes and groups are.
    pub board: Arc<StatusBoard>,
    /// How every part of the process is.
    pub probes: Arc<Probes>,
    /// The event log that the audit logs are about.
    pub log_id: LogId,
    /// Where every metric is declared.
    pub registry: Registry,
    /// The lanes' metrics, whose gauges are set when metrics are read.
    pub lane_metrics: LaneMetrics,
    /// The program's own metrics.
    pub process_metrics: ProcessMetrics,
    /// Whether the disk is full.
    pub disk: Arc<DiskState>,
    /// Tells which attempts cannot be ended, and why.
    pub attempt_troubles: AttemptTroubles,
    /// Tells what an attempt takes on the disk, where its files are here.
    pub attempt_space: AttemptSpaceOf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where new ids come from.
    pub randomness: Arc<dyn Randomness>,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").field("log_id", &self.log_id).finish_non_exhaustive()
    }
}

/// What every request shares.
struct Shared {
    state: AppState,
    limits: HttpLimits,
    lists: Lists,
}

impl Shared {
    fn new(state: AppState, limits: HttpLimits) -> Self {
        Self { state, limits, lists: Lists::new(limits.lists, limits.list_wait) }
    }
}

/// Lists every route; those of one template stand together.
fn routes() -> Vec<Route> {
    let resources: [&[Route]; 12] = [
        jobs::ROUTES,
        output::ROUTES,
        records::ROUTES,
        audit::ROUTES,
        dead_letters::ROUTES,
        gaps::ROUTES,
        lanes::ROUTES,
        parked::ROUTES,
        relay::ROUTES,
        actors::ROUTES,
        metrics::ROUTES,
        health::ROUTES,
    ];
    resources.concat()
}

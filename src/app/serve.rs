//! `horizons serve`: everything, until a signal.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Once};

use horizons_actors::heartbeat;
use horizons_actors::ids::AttemptId;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::relay::RelayView;
use horizons_actors::supervisor::watchdog::keep_beating;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::commands::CommandPort;
use super::folder::GuardedCommands;
use super::{Extras, OpenStore, Running, bind, disk, open_failure};
use crate::cli::OpenedStore;
use crate::config::Config;
use crate::db::sqlite::SqliteReader;
use crate::exit::{Exit, Failure};
use crate::http::{AppState, AttemptSpaceOf, AttemptTroubles, HttpLimits, ServeError, Served};
use crate::metrics::ProcessMetrics;
use crate::scheduler::local::{Troubles, space};

/// HTTP at work.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<Result<Served, ServeError>>,
}

/// Serves until SIGINT or SIGTERM, then ends in order. A second signal ends at once.
pub fn serve(config: Config) -> Result<Exit, Failure> {
    let listener = bind(config.http.listen)?;
    disk::make_room_for_a_start(&config)?;
    let store = OpenStore::open(&config, None)?;
    let system = actix::System::new();
    system.block_on(async move {
        let running = Running::start(&config, store, Extras::default())?;
        actix_rt::spawn(keep_beating(heartbeat::register("main"), config.lanes.stuck_after));
        let server = start_http(&running, &config, listener)?;
        until_signal().await;
        tracing::info!("ending: intake stops, lanes finish what they have at the store");
        server.stop(running).await;
        Ok(Exit::Done)
    })
}

/// Starts HTTP on a bound listener.
pub(super) fn start_http(
    running: &Running,
    config: &Config,
    listener: TcpListener,
) -> Result<Server, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, error);
    let address = listener.local_addr().map_err(|error| failed(&error))?;
    let process_metrics = ProcessMetrics::register(&running.registry).map_err(|error| failed(&error))?;
    let state = AppState {
        queries: Arc::clone(&running.store) as Arc<dyn QueryStore>,
        commands: Arc::new(GuardedCommands {
            commands: CommandPort {
                orchestrator: running.orchestrator.clone(),
                relay: running.relay.clone(),
                asked: Arc::clone(&running.asked),
                disk: Arc::clone(&running.disk),
                topics: running.topics.clone(),
            },
            presence: Arc::clone(&running.presence),
        }),
        output: Arc::clone(&running.output),
        relay: running.relay.clone().map(|relay| relay as Arc<dyn RelayView>),
        board: Arc::clone(&running.board),
        probes: Arc::clone(&running.probes),
        log_id: running.log_id.clone(),
        registry: running.registry.clone(),
        lane_metrics: running.lane_metrics.clone(),
        process_metrics,
        disk: Arc::clone(&running.disk),
        attempt_troubles: attempt_troubles(Arc::clone(&running.troubles)),
        attempt_space: attempt_space(running.attempts_folder.clone()),
        clock: Arc::clone(&running.clock),
        randomness: Arc::clone(&running.randomness),
    };
    let limits = HttpLimits {
        body_bytes: usize::try_from(config.http.body_limit_bytes).unwrap_or(usize::MAX),
        header_read_timeout: config.http.header_read_timeout,
        connections: config.http.connection_limit,
        ..HttpLimits::default()
    };
    let stopping = running.until_stopping();
    let task = running.front().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Address)?;
        crate::http::serve(listener, state, limits, stopping).await
    });
    Ok(Server { address, task })
}

/// Gives what tells which attempts cannot be ended.
fn attempt_troubles(troubles: Arc<Troubles>) -> AttemptTroubles {
    Arc::new(move || troubles.all())
}

/// Gives what tells how much an attempt takes on the disk.
fn attempt_space(attempts_folder: PathBuf) -> AttemptSpaceOf {
    Arc::new(move |id: &AttemptId| space::of_attempt(&attempts_folder, id))
}

impl Server {
    /// Ends everything: requests first, then the rest.
    pub(super) async fn stop(self, running: Running) {
        running.begin_stop();
        match self.task.await {
            Ok(Ok(Served { cut_connections: 0 })) => {}
            Ok(Ok(Served { cut_connections })) => tracing::warn!(cut_connections, "connections were cut"),
            Ok(Err(error)) => tracing::error!(error = %error, "HTTP was not served"),
            Err(error) => tracing::error!(error = %error, "the HTTP server ended badly"),
        }
        running.stop().await;
    }
}

/// Opens a data folder for reading while no server runs.
pub fn open_for_reading(folder: &Path) -> Result<OpenedStore, Failure> {
    let reader = SqliteReader::open(folder).map_err(|error| open_failure(&error))?;
    Ok(OpenedStore { log_id: reader.log_id(), store: Arc::new(reader) })
}

/// Waits for SIGINT or SIGTERM. Once one has come, the next one ends the process from within its handler, whatever
/// the threads do: it is for a person who does not want to wait. What is unfinished is read again.
pub(super) async fn until_signal() {
    static HAS_COME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
    static ONCE: Once = Once::new();
    let mut signals: Vec<Signal> = [SignalKind::interrupt(), SignalKind::terminate()]
        .into_iter()
        .filter_map(|kind| {
            let heard = signal(kind);
            heard.inspect_err(|error| tracing::warn!(%error, ?kind, "failed to listen for a signal")).ok()
        })
        .collect();
    ONCE.call_once(|| {
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            if let Err(error) = end_at_next(kind.as_raw_value(), &HAS_COME) {
                tracing::warn!(%error, ?kind, "a second signal will not end the process at once");
            }
        }
    });
    let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    let (_come, ..) = futures_util::future::select_all(any).await;
}

/// Has a signal end the process if one has come before; called in this order, they are carried out in it.
fn end_at_next(signal: i32, has_come: &Arc<AtomicBool>) -> std::io::Result<()> {
    let interrupted = i32::from(Exit::Interrupted.code());
    signal_hook::flag::register_conditional_shutdown(signal, interrupted, Arc::clone(has_come))?;
    signal_hook::flag::register(signal, Arc::clone(has_come))?;
    Ok(())
}

//! `horizons serve`: everything, until a signal.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::relay::RelayView;
use tokio::task::JoinHandle;

use super::commands::CommandPort;
use super::{Extras, OpenStore, Running, bind, open_failure};
use crate::cli::OpenedStore;
use crate::config::Config;
use crate::db::sqlite::SqliteReader;
use crate::exit::{Exit, Failure};
use crate::http::{AppState, HttpLimits, ServeError, Served};
use crate::metrics::ProcessMetrics;

/// HTTP at work.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<Result<Served, ServeError>>,
}

/// Serves until SIGINT or SIGTERM, then ends in order. A second signal ends at once.
pub fn serve(config: Config) -> Result<Exit, Failure> {
    let listener = bind(config.http.listen)?;
    let store = OpenStore::open(&config, None)?;
    let system = actix::System::new();
    system.block_on(async move {
        let running = Running::start(&config, store, Extras::default())?;
        let server = start_http(&running, &config, listener)?;
        until_signal().await;
        tracing::info!("ending: intake stops, lanes finish what they have at the store");
        // A second signal is for a person who does not want to wait; what is unfinished is read again.
        let interrupted = tokio::spawn(async {
            until_signal().await;
            std::process::exit(i32::from(Exit::Interrupted.code()));
        });
        server.stop(running).await;
        interrupted.abort();
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
        commands: Arc::new(CommandPort {
            orchestrator: running.orchestrator.clone(),
            board: Arc::clone(&running.board),
            relay: running.relay.clone(),
            restarts: running.restarts(),
        }),
        relay: running.relay.clone().map(|relay| relay as Arc<dyn RelayView>),
        board: Arc::clone(&running.board),
        log_id: running.log_id.clone(),
        registry: running.registry.clone(),
        lane_metrics: running.lane_metrics.clone(),
        process_metrics,
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

/// Waits for SIGINT or SIGTERM.
pub(super) async fn until_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(error = %error, "failed to listen for SIGTERM: only SIGINT ends the program in order");
            let _interrupted = tokio::signal::ctrl_c().await;
        }
    }
}

//! Accepts connections and serves them, under limits.
//!
//! Promises that no client holds a connection without sending a request's headers for longer than the
//! header-read timeout (an idle kept-alive connection included), that no more connections are served at once
//! than allowed (but for a few that only probes are answered on), that a client which takes nothing of its answer is
//! cut, and that shutting down lets requests that are being answered end, within a limit. Serves loopback only: there
//! are no tokens yet (design D17).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::gate::{Gate, Serves};
use super::patience::Patient;
use super::{AppState, Shared};

/// Most bytes of a request's line and headers; larger ones are answered 431.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// How long accepting rests after an error such as too many open files, so that it does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Connections beyond the limit, on which probes are answered and everything else is sent away: who must know
/// whether the process works is answered however many clients there are.
const PROBE_CONNECTIONS: usize = 16;

/// Places for connections.
struct Places {
    all: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

/// A place, held as long as its connection.
struct Place {
    serves: Serves,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Waits for a place, one for everything where there is one.
    async fn wait(&self) -> Place {
        let (serves, permit) = tokio::select! {
            biased;
            permit = Arc::clone(&self.all).acquire_owned() => (Serves::Everything, permit),
            permit = Arc::clone(&self.probes).acquire_owned() => (Serves::Probes, permit),
        };
        Place { serves, _permit: permit.expect("the semaphore is never closed") }
    }

    /// Gives a place for everything that came free while a connection was waited for.
    fn better(&self, place: Place) -> Place {
        match (place.serves, Arc::clone(&self.all).try_acquire_owned()) {
            (Serves::Probes, Ok(permit)) => Place { serves: Serves::Everything, _permit: permit },
            _ => place,
        }
    }
}

/// What clients may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// How long a client may take to send a request's headers.
    pub header_read_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_read_timeout: Duration,
    /// Connections served at once; a few more are answered for probes alone, further ones wait to be accepted.
    pub connections: usize,
    /// Lists that are read, made into JSON and sent at once.
    pub lists: usize,
    /// How long a request waits for its turn at a list.
    pub list_wait: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub send_timeout: Duration,
    /// How long an answer may take to be made; above the longest wait for a scheduler's verdict.
    pub answer_timeout: Duration,
    /// How long requests may still be answered while shutting down.
    pub shutdown_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            header_read_timeout: Duration::from_secs(5),
            body_read_timeout: Duration::from_secs(30),
            connections: 256,
            lists: 4,
            list_wait: Duration::from_secs(5),
            send_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(75),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

/// Tells why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener's address cannot be told.
    #[error("failed to read the address that HTTP listens on: {0}")]
    Address(#[source] io::Error),
    /// The listener is open to other machines.
    #[error("failed to serve HTTP: wanted a loopback address, got `{0}`")]
    NotLoopback(SocketAddr),
}

impl ServeError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        match self {
            ServeError::Address(_) | ServeError::NotLoopback(_) => false,
        }
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Connections that were cut because they did not end within the shutdown timeout.
    pub cut_connections: usize,
}

/// Serves HTTP until `shutdown` is ready, then lets open requests end.
///
/// *Errors*: every variant of [`ServeError`], before anything is accepted.
///
/// *Cancel safety*: dropping the future cuts every connection; work that was handed over goes on.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) -> Result<Served, ServeError> {
    let address = listener.local_addr().map_err(ServeError::Address)?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    tracing::info!(%address, "serving HTTP");
    let places = Places {
        all: Arc::new(Semaphore::new(limits.connections)),
        probes: Arc::new(Semaphore::new(PROBE_CONNECTIONS)),
    };
    let gate = Gate::new(Arc::new(Shared::new(state, limits)));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(serve_connection(stream, place, gate.clone(), limits, stopped.clone()));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
    drop(listener);
    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // What is still open after the limit is counted and cut.
    let _elapsed = tokio::time::timeout(limits.shutdown_timeout, all_ended).await;
    let cut_connections = connections.len();
    connections.shutdown().await;
    tracing::info!(cut_connections, "HTTP has stopped");
    Ok(Served { cut_connections })
}

/// Waits for a free place, then for a connection.
///
/// *Cancel safety*: nothing accepted is lost, because accepting is the last step.
async fn accept(listener: &TcpListener, places: &Places) -> (TcpStream, Place) {
    let place = places.wait().await;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return (stream, places.better(place)),
            Err(error) => {
                tracing::warn!(error = %error, "connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    place: Place,
    gate: Gate,
    limits: HttpLimits,
    mut stopped: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "small answers may be delayed");
    }
    let _counted = gate.count_connection();
    let serves = place.serves;
    let service = service_fn(move |request| gate.clone().answer(request, serves));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.send_timeout)), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop_of(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error = %error, "connection ended early");
    }
    drop(place);
}

/// Waits for the wish to stop; the server that is gone is one as well.
async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    let _is_stopped_or_gone = stopped.wait_for(|stopped| *stopped).await;
}

//! `horizons serve`: everything, until a signal.

use std::sync::Arc;

use super::{Extras, Running, bind, open_store};
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// Serves until SIGINT or SIGTERM, then ends in order. A second signal ends at once.
pub fn serve(config: Config) -> Result<Exit, Failure> {
    let listener = bind(config.http.listen)?;
    let store = open_store(&config, None)?;
    let system = actix::System::new();
    system.block_on(async move {
        let running = Running::start(&config, Arc::clone(&store), Extras::default())?;
        drop(listener);
        until_signal().await;
        running.stop().await;
        Ok(Exit::Done)
    })
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

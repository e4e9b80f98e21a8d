//! The output of attempts that another process has: it is named, as the store knows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use horizons_actors::ports::Reply;
use horizons_actors::ports::output::{AttemptOutput, OutputError, OutputPage, OutputQuery};
use tokio::sync::Mutex;

use super::store::scheduler_holder;
use crate::config::Config;

/// How long an answer about who has the files is taken for true: they move with a restart only.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Who had the files, and when that was asked.
type Known = Option<(Instant, Option<String>)>;

/// Says who has the files.
pub(super) struct OutputElsewhere {
    config: Config,
    /// One request at a time asks.
    known: Arc<Mutex<Known>>,
}

impl OutputElsewhere {
    pub(super) fn new(config: &Config) -> Self {
        Self { config: config.clone(), known: Arc::default() }
    }
}

impl AttemptOutput for OutputElsewhere {
    fn read(&self, _query: OutputQuery) -> Reply<OutputPage, OutputError> {
        let (config, known) = (self.config.clone(), Arc::clone(&self.known));
        async move {
            let mut known = known.lock().await;
            let holder = match known.as_ref() {
                Some((asked_at, holder)) if asked_at.elapsed() < KNOWN_FOR => holder.clone(),
                _ => {
                    let asked = tokio::task::spawn_blocking(move || scheduler_holder(&config)).await;
                    // Where the store does not tell, the answer is right without the name.
                    let holder = asked.ok().flatten();
                    *known = Some((Instant::now(), holder.clone()));
                    holder
                }
            };
            Err(OutputError::Elsewhere { holder })
        }
        .boxed()
    }
}

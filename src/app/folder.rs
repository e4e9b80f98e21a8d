//! The data folder of a running program: watched, and nothing new taken once it is gone.
//!
//! Promises that a folder which was removed, moved or replaced is noticed within seconds, that no command is accepted
//! from then on, and that the process ends with a code of its own: what it would store would be lost with the folder.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use horizons_actors::command::{Command, LayoutAdoption};
use horizons_actors::ids::Topic;
use horizons_actors::layout::Layout;
use horizons_actors::ports::Reply;
use horizons_actors::ports::commands::{
    AcceptedGap, Cancelling, CommandError, Commands, ExternalRecord, Submitted,
};
use horizons_actors::ports::store::AppendedAt;

use super::attempts_folder;
use super::commands::CommandPort;
use crate::config::{Config, SchedulerKind, StoreEngine};
use crate::db::sqlite;
use crate::exit::{Exit, Failure, end_now};
use crate::periodic::{Periodic, RoundLimit, Rounds};
use crate::presence::Presence;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between the finding and the end: requests are answered, and whoever asks hears that the process is not ready.
const NOTICE: Duration = Duration::from_secs(3);

/// Remembers what the running program has in its folder. Call it when all of it is open.
pub(super) fn present(config: &Config) -> Result<Arc<Presence>, Failure> {
    let folder = &config.store.folder;
    let mut paths = vec![folder.clone()];
    if config.store.engine == StoreEngine::Sqlite {
        paths.extend(sqlite::open_files(folder));
    }
    if config.scheduler.kind == SchedulerKind::Local {
        paths.push(attempts_folder(config));
    }
    let presence = Presence::default();
    for path in paths {
        presence.watch(&path).map_err(|error| {
            Failure::text(Exit::Store, format!("failed to look at `{}`: {error}", path.display()))
        })?;
    }
    Ok(Arc::new(presence))
}

/// Starts to look, until what is given back is dropped.
pub(super) fn watch(presence: Arc<Presence>) -> Result<Periodic, Failure> {
    let look = move |rounds: &Rounds| {
        while rounds.next(LOOK_EVERY) {
            if let Err(gone) = presence.check() {
                tracing::error!(gone, "the data folder is gone: nothing new is taken, and the process ends");
                let _ended_before = rounds.next(NOTICE);
                end_now(Exit::Gone);
            }
        }
    };
    Periodic::start("data-folder", RoundLimit::OfEveryThread, look)
        .map_err(|error| Failure::new(Exit::Failed, &error))
}

/// Carries commands out as long as the folder is there.
pub(super) struct GuardedCommands {
    pub(super) commands: CommandPort,
    pub(super) presence: Arc<Presence>,
}

impl GuardedCommands {
    /// Asks, unless the folder is gone. Looking at a few names costs microseconds; a disk that does not answer holds
    /// up the store as well.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&CommandPort) -> Reply<T, CommandError>,
    ) -> Reply<T, CommandError> {
        match self.presence.check() {
            Ok(()) => ask(&self.commands),
            Err(_gone) => async { Err(CommandError::FolderGone) }.boxed(),
        }
    }
}

impl Commands for GuardedCommands {
    fn submit(&self, command: Command) -> Reply<Submitted, CommandError> {
        self.ask(|commands| commands.submit(command))
    }

    fn cancel(&self, command: Command) -> Reply<Cancelling, CommandError> {
        self.ask(|commands| commands.cancel(command))
    }

    fn append_records(
        &self,
        command: Command,
        records: Vec<ExternalRecord>,
    ) -> Reply<Vec<AppendedAt>, CommandError> {
        self.ask(|commands| commands.append_records(command, records))
    }

    fn set_parked_wish(&self, command: Command) -> Reply<(), CommandError> {
        self.ask(|commands| commands.set_parked_wish(command))
    }

    fn resume_lane(&self, command: Command) -> Reply<(), CommandError> {
        self.ask(|commands| commands.resume_lane(command))
    }

    fn set_aside_record(&self, command: Command) -> Reply<(), CommandError> {
        self.ask(|commands| commands.set_aside_record(command))
    }

    fn send_record_again(&self, command: Command) -> Reply<(), CommandError> {
        self.ask(|commands| commands.send_record_again(command))
    }

    fn accept_gap(&self, command: Command) -> Reply<AcceptedGap, CommandError> {
        self.ask(|commands| commands.accept_gap(command))
    }

    fn look_at_topic(&self, topic: Topic) -> Reply<LayoutAdoption, CommandError> {
        self.ask(|commands| commands.look_at_topic(topic))
    }

    fn adopt_layout(&self, command: Command) -> Reply<Layout, CommandError> {
        self.ask(|commands| commands.adopt_layout(command))
    }
}

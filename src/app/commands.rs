//! The orchestrator behind the port that HTTP speaks to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use horizons_actors::command::{Command, LayoutAdoption};
use horizons_actors::ids::Topic;
use horizons_actors::layout::Layout;
use horizons_actors::ports::Reply;
use horizons_actors::ports::commands::{
    AcceptedGap, Cancelling, CommandError, Commands, ExternalRecord, Submitted,
};
use horizons_actors::ports::store::AppendedAt;
use tokio::sync::Notify;

use super::layouts::Adopter;
use super::relay::RelayPort;
use crate::disk::DiskState;
use crate::orchestrator::Orchestrator;

/// Carries commands out. What they want of lanes and the relay is stored; the watch over wishes, which every process
/// has, carries it to whoever it is for.
pub(super) struct CommandPort {
    pub(super) orchestrator: Orchestrator,
    /// The relay, where the event log is on Kafka.
    pub(super) relay: Option<Arc<RelayPort>>,
    /// Wakes this process's watch over wishes.
    pub(super) asked: Arc<Notify>,
    /// Whether the disk is full.
    pub(super) disk: Arc<DiskState>,
    /// Adopts partitions that were added to topics, where the event log is on Kafka.
    pub(super) topics: Option<Arc<Adopter>>,
}

/// Answers an order about a topic of a log that is not on Kafka.
fn no_topics<T: Send + 'static>() -> Reply<T, CommandError> {
    let (what, reason) = ("topics".to_owned(), "the event log is embedded: they do not grow".to_owned());
    async { Err(CommandError::NotPossible { what, reason }) }.boxed()
}

/// Refuses what is new while the disk is full.
fn refuse_when_full(disk: &DiskState) -> Result<(), CommandError> {
    if disk.is_full() {
        return Err(CommandError::DiskFull { available_bytes: disk.available_bytes() });
    }
    Ok(())
}

/// How long a cancel is tried again on a full disk: the ballast that makes room for it is given up after a second.
const CANCEL_ROOM_LIMIT: Duration = Duration::from_secs(5);

/// Between two tries.
const CANCEL_ROOM_PAUSE: Duration = Duration::from_millis(200);

/// Cancels, and waits for room where the disk is full: asking twice does the same as asking once.
async fn cancel_when_there_is_room(
    orchestrator: &Orchestrator,
    disk: &DiskState,
    command: Command,
) -> Result<Cancelling, CommandError> {
    let give_up_at = Instant::now() + CANCEL_ROOM_LIMIT;
    loop {
        match orchestrator.cancel(command.clone()).await {
            Err(error) if error.is_transient() && disk.is_full() => {
                if Instant::now() >= give_up_at {
                    return Err(CommandError::DiskFull { available_bytes: disk.available_bytes() });
                }
                tokio::time::sleep(CANCEL_ROOM_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Says of a failure while the disk is full that this is why.
fn told_of_the_disk(disk: &DiskState, error: CommandError) -> CommandError {
    match error {
        CommandError::Busy { .. } if disk.is_full() => {
            CommandError::DiskFull { available_bytes: disk.available_bytes() }
        }
        error => error,
    }
}

/// Answers an order about a relay that is not there.
fn no_relay<T: Send + 'static>() -> Reply<T, CommandError> {
    let what = "relay (the event log is embedded)".to_owned();
    async { Err(CommandError::NotFound { what }) }.boxed()
}

impl Commands for CommandPort {
    fn submit(&self, command: Command) -> Reply<Submitted, CommandError> {
        let (orchestrator, disk) = (self.orchestrator.clone(), Arc::clone(&self.disk));
        async move {
            refuse_when_full(&disk)?;
            orchestrator.submit(command).await.map_err(|error| told_of_the_disk(&disk, error))
        }
        .boxed()
    }

    fn cancel(&self, command: Command) -> Reply<Cancelling, CommandError> {
        let (orchestrator, disk) = (self.orchestrator.clone(), Arc::clone(&self.disk));
        async move { cancel_when_there_is_room(&orchestrator, &disk, command).await }.boxed()
    }

    fn append_records(
        &self,
        command: Command,
        records: Vec<ExternalRecord>,
    ) -> Reply<Vec<AppendedAt>, CommandError> {
        let (orchestrator, disk) = (self.orchestrator.clone(), Arc::clone(&self.disk));
        async move {
            refuse_when_full(&disk)?;
            let appended = orchestrator.append_records(command, records).await;
            appended.map_err(|error| told_of_the_disk(&disk, error))
        }
        .boxed()
    }

    fn set_parked_wish(&self, command: Command) -> Reply<(), CommandError> {
        let (orchestrator, asked) = (self.orchestrator.clone(), Arc::clone(&self.asked));
        told(asked, async move { orchestrator.set_parked_wish(command).await })
    }

    fn resume_lane(&self, command: Command) -> Reply<(), CommandError> {
        let (orchestrator, asked) = (self.orchestrator.clone(), Arc::clone(&self.asked));
        told(asked, async move { orchestrator.resume_lane(command).await })
    }

    fn set_aside_record(&self, command: Command) -> Reply<(), CommandError> {
        let Some(relay) = self.relay.clone() else { return no_relay() };
        let (orchestrator, asked) = (self.orchestrator.clone(), Arc::clone(&self.asked));
        told(asked, async move { orchestrator.set_aside_record(relay.outbox.as_ref(), command).await })
    }

    fn send_record_again(&self, command: Command) -> Reply<(), CommandError> {
        if self.relay.is_none() {
            return no_relay();
        }
        let (orchestrator, asked) = (self.orchestrator.clone(), Arc::clone(&self.asked));
        told(asked, async move { orchestrator.send_again(command).await })
    }

    fn accept_gap(&self, command: Command) -> Reply<AcceptedGap, CommandError> {
        let (orchestrator, asked) = (self.orchestrator.clone(), Arc::clone(&self.asked));
        told(asked, async move { orchestrator.accept_gap(command).await })
    }

    fn look_at_topic(&self, topic: Topic) -> Reply<LayoutAdoption, CommandError> {
        let Some(topics) = self.topics.clone() else { return no_topics() };
        topics.look(topic).boxed()
    }

    fn adopt_layout(&self, command: Command) -> Reply<Layout, CommandError> {
        let Some(topics) = self.topics.clone() else { return no_topics() };
        let orchestrator = self.orchestrator.clone();
        async move { topics.adopt(&orchestrator, command).await }.boxed()
    }
}

/// Wakes the watch once a wish is stored, or may be: this process need not wait until it looks by itself.
fn told<T: Send + 'static, E: Into<CommandError>>(
    asked: Arc<Notify>,
    wish: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Reply<T, CommandError> {
    async move {
        let stored = wish.await.map_err(Into::into);
        asked.notify_one();
        stored
    }
    .boxed()
}

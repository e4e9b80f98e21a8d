//! The orchestrator behind the port that HTTP speaks to.

use std::sync::Arc;

use actix::Recipient;
use futures_util::FutureExt;
use horizons_actors::command::{Command, CommandKind};
use horizons_actors::ids::LaneKey;
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::Reply;
use horizons_actors::ports::commands::{
    AcceptedGap, Cancelling, CommandError, Commands, ExternalRecord, Submitted,
};
use horizons_actors::ports::outbox::OutboxPartition;
use horizons_actors::ports::relay::RelayView;
use horizons_actors::ports::store::AppendedAt;
use horizons_actors::supervisor::message::RestartLaneOf;

use super::relay::RelayPort;
use crate::disk::DiskState;
use crate::orchestrator::Orchestrator;

/// Carries commands out, and wakes the lane that a wish is about.
pub(super) struct CommandPort {
    pub(super) orchestrator: Orchestrator,
    pub(super) board: Arc<StatusBoard>,
    /// The relay, where the event log is on Kafka.
    pub(super) relay: Option<Arc<RelayPort>>,
    /// Starts a lane again.
    pub(super) restarts: Recipient<RestartLaneOf>,
    /// Whether the disk is full.
    pub(super) disk: Arc<DiskState>,
}

/// Refuses what is new while the disk is full.
fn refuse_when_full(disk: &DiskState) -> Result<(), CommandError> {
    if disk.is_full() {
        return Err(CommandError::DiskFull { available_bytes: disk.available_bytes() });
    }
    Ok(())
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
        async move { orchestrator.cancel(command).await.map_err(|error| told_of_the_disk(&disk, error)) }
            .boxed()
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
        let (orchestrator, board) = (self.orchestrator.clone(), Arc::clone(&self.board));
        async move {
            let lane = lane_of(&command.kind);
            orchestrator.set_parked_wish(command).await?;
            nudge(&board, lane.as_ref());
            Ok(())
        }
        .boxed()
    }

    fn resume_lane(&self, command: Command) -> Reply<(), CommandError> {
        let (orchestrator, board) = (self.orchestrator.clone(), Arc::clone(&self.board));
        async move {
            let lane = lane_of(&command.kind);
            orchestrator.resume_lane(command).await?;
            nudge(&board, lane.as_ref());
            Ok(())
        }
        .boxed()
    }

    fn set_aside_record(&self, command: Command) -> Reply<(), CommandError> {
        let Some(relay) = self.relay.clone() else { return no_relay() };
        let orchestrator = self.orchestrator.clone();
        async move { orchestrator.set_aside_record(relay.outbox.as_ref(), command).await }.boxed()
    }

    fn send_record_again(&self, command: Command) -> Reply<(), CommandError> {
        let Some(relay) = self.relay.clone() else { return no_relay() };
        let orchestrator = self.orchestrator.clone();
        async move {
            let (topic, partition) = orchestrator.note_send_again(command).await?;
            relay.try_again(OutboxPartition { topic, partition });
            Ok(())
        }
        .boxed()
    }

    fn accept_gap(&self, command: Command) -> Reply<AcceptedGap, CommandError> {
        let (orchestrator, restarts) = (self.orchestrator.clone(), self.restarts.clone());
        async move {
            let lane = lane_of(&command.kind);
            let accepted = orchestrator.accept_gap(command).await?;
            if let Some(lane) = lane {
                // A supervisor that cannot take it is overrun or ending; the decision is stored, and the next
                // start of the lane finds it.
                let _found_at_start = restarts.try_send(RestartLaneOf { lane });
            }
            Ok(accepted)
        }
        .boxed()
    }
}

/// Has a lane read what operators want of it. One that is not on the board does so when it starts.
fn nudge(board: &StatusBoard, lane: Option<&LaneKey>) {
    if let Some(status) = lane.and_then(|lane| board.find_lane(lane)) {
        status.nudge();
    }
}

/// Gives the lane that a command is about.
fn lane_of(kind: &CommandKind) -> Option<LaneKey> {
    match kind {
        CommandKind::ReleaseKey(key) | CommandKind::DiscardHead(key) => Some(key.lane.clone()),
        CommandKind::ResumeLane(lane) => Some(lane.clone()),
        CommandKind::SubmitJob(_)
        | CommandKind::CancelJob { .. }
        | CommandKind::AppendRecord { .. }
        | CommandKind::SetAsideRecord { .. }
        | CommandKind::SendRecordAgain { .. } => None,
        CommandKind::AcceptGap(gap) => Some(gap.lane.clone()),
    }
}

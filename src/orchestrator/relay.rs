//! What operators ask of the relay to Kafka: each act with its audit entry.

use horizons_actors::command::{Command, CommandKind};
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, SetAsideAnswer};
use serde_json::Map;

use super::requests::wrong_kind;
use super::{Orchestrator, OrchestratorError};

impl Orchestrator {
    /// Keeps the record apart at which a partition of the relay stands, so that the partition goes on.
    ///
    /// *Errors*: `NotFound` when the partition does not stand at that record, `Busy`; nothing is stored then. `Unknown`.
    pub async fn set_aside_record(
        &self,
        outbox: &dyn OutboxStore,
        command: Command,
    ) -> Result<(), OrchestratorError> {
        let CommandKind::SetAsideRecord { topic, partition, offset } = command.kind else {
            return Err(wrong_kind(&command));
        };
        let audit = self.shared.audit(&command, Map::new())?;
        let partition = OutboxPartition { topic, partition };
        match outbox.set_aside(command, partition, offset, audit).await {
            Ok(SetAsideAnswer::Done) => Ok(()),
            Ok(SetAsideAnswer::NotAtCursor { next }) => Err(OrchestratorError::NotFound {
                what: format!("record at offset {offset} before `{partition}`, which stands at {next},"),
            }),
            Err(error) => {
                let find_out = "ask again: a record that was set aside is not where the partition stands";
                Err(self.shared.act_error(error, find_out))
            }
        }
    }

    /// Stores that a record is to be sent again.
    ///
    /// *Errors*: `Busy`; nothing is stored then. `Unknown`.
    pub async fn send_again(&self, command: Command) -> Result<(), OrchestratorError> {
        let CommandKind::SendRecordAgain { topic, partition } = command.kind else {
            return Err(wrong_kind(&command));
        };
        let audit = self.shared.audit(&command, Map::new())?;
        let partition = OutboxPartition { topic, partition };
        let stored = self.shared.store.wish_send_again(partition, audit).await;
        stored.map_err(|error| self.shared.act_error(error, "ask again: twice does no harm"))
    }
}

//! `horizons topics`: the topics of an event log on Kafka, created, checked and shown.

use crate::cli::{Form, TopicsAct};
use crate::config::{Config, EventLogKind};
use crate::exit::{Exit, Failure};

/// Does what is asked with the topics.
///
/// *Errors*: [`Exit::Config`] where the event log is not on Kafka.
pub fn topics(config: Config, _act: TopicsAct, _form: Form) -> Result<Exit, Failure> {
    if config.event_log != EventLogKind::Kafka {
        let text = "`event_log.kind` is `embedded`: an embedded event log has no topics to look after";
        return Err(Failure::text(Exit::Config, text));
    }
    Err(Failure::text(Exit::Failed, "this build has no Kafka adapter yet"))
}

//! The scheduler of a process that leaves the running of jobs to another process of the same installation.
//!
//! Promises only to check requests: the agent must be one that this process's configuration names. Everything
//! else is answered as being away, because the process that has the scheduler asks its own.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use horizons_actors::ids::{AgentName, AttemptId};
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{
    AttemptReport, AttemptSample, AttemptSpec, Scheduler, SchedulerError,
};

/// Stands in for a scheduler that is in another process.
#[derive(Debug)]
pub struct ElsewhereScheduler {
    agents: BTreeSet<AgentName>,
}

impl ElsewhereScheduler {
    /// Makes one that takes requests for these agents.
    pub fn new(agents: impl IntoIterator<Item = AgentName>) -> Self {
        Self { agents: agents.into_iter().collect() }
    }
}

/// Answers whatever only the other process can do.
fn away<T: Send + 'static>() -> Reply<T, SchedulerError> {
    async { Err(SchedulerError::Unavailable("the scheduler is in another process".to_owned())) }.boxed()
}

impl Scheduler for ElsewhereScheduler {
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError> {
        if self.agents.contains(&spec.agent) {
            return Ok(());
        }
        let known: Vec<String> = self.agents.iter().map(|agent| format!("`{agent}`")).collect();
        let reason = format!("wanted one of {}, got `{}`", known.join(", "), spec.agent);
        Err(SchedulerError::Refused { field: "agent", reason })
    }

    fn submit(&self, _spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError> {
        away()
    }

    fn find(&self, _id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError> {
        away()
    }

    fn samples(
        &self,
        _id: AttemptId,
        _from: u64,
        _limit: usize,
    ) -> Reply<Vec<AttemptSample>, SchedulerError> {
        away()
    }

    fn cancel(&self, _id: AttemptId) -> Reply<(), SchedulerError> {
        away()
    }

    fn clean(&self, _id: AttemptId) -> Reply<(), SchedulerError> {
        away()
    }

    fn changed(&self) -> Reply<(), SchedulerError> {
        away()
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::clock::SystemRandomness;
    use horizons_actors::event::{TaccSystem, new_correlation_id};
    use horizons_actors::ids::{Attempt, DatasetId, JobId, UserId};

    use super::*;

    fn spec(agent: &str) -> AttemptSpec {
        AttemptSpec {
            id: AttemptId { job_id: JobId::parse("job-1").unwrap(), attempt: Attempt(1) },
            agent: AgentName::parse(agent).unwrap(),
            dataset_id: DatasetId::parse("field-1").unwrap(),
            parameters: horizons_actors::parameters::Parameters::default(),
            tacc_system: TaccSystem::Local,
            user_id: UserId::parse("ada").unwrap(),
            correlation_id: new_correlation_id(&SystemRandomness),
        }
    }

    #[test]
    fn check_agent_unknown_here_is_refused_by_name() {
        let scheduler = ElsewhereScheduler::new([AgentName::parse("image").unwrap()]);

        let refused = scheduler.check(&spec("calibrate")).unwrap_err().to_string();

        assert!(scheduler.check(&spec("image")).is_ok());
        assert_eq!(refused, "scheduler refuses `agent`: wanted one of `image`, got `calibrate`");
    }
}

//! The scheduler of a process that leaves the running of jobs to another process of the same installation.
//!
//! Promises only to check requests, as the scheduler itself would: the agent must be one that this process's
//! configuration names, and the values such as its arguments can hold. Everything else is answered as being away,
//! because the process that has the scheduler asks its own.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::FutureExt;
use horizons_actors::ids::{AgentName, AttemptId};
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{
    AttemptReport, AttemptSample, AttemptSpec, Scheduler, SchedulerError,
};

use super::local::template::{ArgumentTemplate, TemplateError, ValueError};

/// Stands in for a scheduler that is in another process.
#[derive(Debug)]
pub struct ElsewhereScheduler {
    agents: BTreeMap<AgentName, Vec<ArgumentTemplate>>,
}

/// Stands for the file of parameters, which only the process that runs the attempt has.
const PARAMETERS_FILE: &str = "/parameters.json";

impl ElsewhereScheduler {
    /// Makes one that takes requests for these agents, each with the templates of its arguments.
    ///
    /// *Errors*: [`TemplateError`] for a text that is no template.
    pub fn new(agents: impl IntoIterator<Item = (AgentName, Vec<String>)>) -> Result<Self, TemplateError> {
        let parsed = agents.into_iter().map(|(name, arguments)| {
            let templates = arguments.iter().map(|text| ArgumentTemplate::parse(text));
            Ok((name, templates.collect::<Result<_, _>>()?))
        });
        Ok(Self { agents: parsed.collect::<Result<_, _>>()? })
    }
}

/// Answers whatever only the other process can do.
fn away<T: Send + 'static>() -> Reply<T, SchedulerError> {
    async { Err(SchedulerError::Unavailable("the scheduler is in another process".to_owned())) }.boxed()
}

impl Scheduler for ElsewhereScheduler {
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError> {
        if let Some(templates) = self.agents.get(&spec.agent) {
            for template in templates {
                if let Err(ValueError { field, reason }) = template.render(spec, Path::new(PARAMETERS_FILE)) {
                    return Err(SchedulerError::Refused { field, reason });
                }
            }
            return Ok(());
        }
        let known: Vec<String> = self.agents.keys().map(|agent| format!("`{agent}`")).collect();
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
    fn check_value_that_no_argument_may_hold_is_refused_with_its_field() {
        let image = AgentName::parse("image").unwrap();
        let scheduler = ElsewhereScheduler::new([(image, vec!["/data/{dataset_id}".to_owned()])]).unwrap();

        let outside = AttemptSpec { dataset_id: DatasetId::parse("../secret").unwrap(), ..spec("image") };

        assert!(scheduler.check(&spec("image")).is_ok());
        let refused = scheduler.check(&outside);
        assert!(matches!(refused, Err(SchedulerError::Refused { field: "dataset_id", .. })), "{refused:?}");
    }

    #[test]
    fn check_agent_unknown_here_is_refused_by_name() {
        let image = AgentName::parse("image").unwrap();
        let scheduler = ElsewhereScheduler::new([(image, Vec::new())]).unwrap();

        let refused = scheduler.check(&spec("calibrate")).unwrap_err().to_string();

        assert!(scheduler.check(&spec("image")).is_ok());
        assert_eq!(refused, "scheduler refuses `agent`: wanted one of `image`, got `calibrate`");
    }
}

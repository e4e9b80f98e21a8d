//! What the scheduler does not do of late, for the probe.
//!
//! Promises one line for each kind of call whose last answer was a passing failure; one that was not repeated for
//! longer than the longest delay between tries is forgotten, because nobody wants it any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than the longest delay between two tries and the time limit of one.
const FORGET_AFTER: Duration = Duration::from_secs(90);

/// What the scheduler is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Find,
    Submit,
    Cancel,
    Samples,
    Clean,
}

impl Asked {
    const fn name(self) -> &'static str {
        match self {
            Asked::Find => "find an attempt",
            Asked::Submit => "start an attempt",
            Asked::Cancel => "end an attempt",
            Asked::Samples => "give samples",
            Asked::Clean => "clean an attempt's folder",
        }
    }
}

/// The calls whose last answer was a passing failure.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<BTreeMap<Asked, (Instant, String)>>);

impl Trouble {
    fn failures(&self) -> MutexGuard<'_, BTreeMap<Asked, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a call was answered.
    pub(super) fn note(&self, asked: Asked, failure: Option<String>) {
        let mut failures = self.failures();
        match failure {
            Some(failure) => drop(failures.insert(asked, (Instant::now(), failure))),
            None => drop(failures.remove(&asked)),
        }
    }

    /// Words what fails.
    pub(super) fn told(&self) -> Option<String> {
        let mut failures = self.failures();
        failures.retain(|_, (at, _)| at.elapsed() < FORGET_AFTER);
        let told = failures.iter().map(|(asked, (_, failure))| format!("{}: {failure}", asked.name()));
        let told = told.collect::<Vec<_>>().join(", ");
        (!told.is_empty()).then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_ends_with_the_next_answer_to_the_same_call() {
        let trouble = Trouble::default();

        trouble.note(Asked::Submit, Some("no space".to_owned()));
        trouble.note(Asked::Find, None);
        let told = trouble.told();
        trouble.note(Asked::Submit, None);

        assert_eq!((told, trouble.told()), (Some("start an attempt: no space".to_owned()), None));
    }
}

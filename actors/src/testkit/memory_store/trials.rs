//! Unclean ends, trials and gaps of a lane, as the store counts them.

use std::collections::BTreeMap;

use crate::ids::ProcessId;
use crate::trial::{SettledTrial, Trial, TrialEnd, TrialPhase, TrialSubject};

/// A trial with its phase.
#[derive(Debug, Clone, Copy, Default)]
struct KeptTrial {
    deaths: u32,
    is_trying: bool,
    is_convicted: bool,
}

/// The trials of a lane, and how its owners ended.
#[derive(Debug, Default)]
pub(super) struct TrialTables {
    /// Who opened the lane last; none before the first time.
    opened_by: Option<ProcessId>,
    ended_in_order: bool,
    pub(super) starts_at_next: u32,
    pub(super) starts_aside: u32,
    trials: BTreeMap<TrialSubject, KeptTrial>,
}

impl TrialTables {
    /// Counts an opening, and charges what the process before died of.
    pub(super) fn opened(&mut self, process: ProcessId, is_left: impl Fn(&TrialSubject) -> bool) {
        let is_other = self.opened_by.is_some_and(|before| before != process);
        if is_other && !self.ended_in_order {
            self.starts_at_next += 1;
            self.starts_aside += 1;
        }
        for trial in self.trials.values_mut().filter(|trial| trial.is_trying) {
            trial.deaths += u32::from(is_other);
            trial.is_trying = false;
        }
        self.trials.retain(|subject, trial| trial.is_convicted || (trial.deaths > 0 && is_left(subject)));
        self.opened_by = Some(process);
        self.ended_in_order = false;
    }

    /// Notes an end in order: a thought that was given up harmed nobody.
    pub(super) fn ended(&mut self) {
        self.ended_in_order = true;
        self.trials.values_mut().for_each(|trial| trial.is_trying = false);
    }

    /// Takes back what a process noted as being tried, but for what it was seen to think about.
    pub(super) fn acquit(&mut self, process: ProcessId, seen: Option<&TrialSubject>) {
        if self.opened_by == Some(process) {
            for (subject, trial) in &mut self.trials {
                trial.is_trying &= seen == Some(subject);
            }
        }
    }

    pub(super) fn write(&mut self, subject: TrialSubject, phase: TrialPhase) {
        match phase {
            TrialPhase::Trying => {
                let kept = self.trials.entry(subject).or_default();
                *kept = KeptTrial { deaths: kept.deaths, is_trying: true, is_convicted: false };
            }
            TrialPhase::Waiting => {
                if let Some(kept) = self.trials.get_mut(&subject) {
                    kept.is_trying = false;
                }
            }
            TrialPhase::Survived => {
                self.trials.remove(&subject);
            }
        }
    }

    pub(super) fn settle(&mut self, SettledTrial { subject, end }: SettledTrial) {
        let kept = self.trials.remove(&subject);
        let Some(offset) = subject.offset() else { return };
        let record = TrialSubject::Log(offset);
        match end {
            TrialEnd::Survived => {
                self.trials.remove(&record);
            }
            TrialEnd::Convicted => {
                let deaths = kept.map_or(0, |kept| kept.deaths);
                self.trials.insert(record, KeptTrial { deaths, is_trying: false, is_convicted: true });
            }
        }
    }

    /// Forgets what was tried in the log, because the lane goes on elsewhere.
    pub(super) fn forget_log(&mut self) {
        self.starts_at_next = 0;
        self.trials.retain(|subject, _| !matches!(subject, TrialSubject::Log(_)));
    }

    /// Lists the trials as they will be when another process opens the lane.
    pub(super) fn foreseen(&self) -> Vec<Trial> {
        let mut trials = self.list();
        for trial in &mut trials {
            let is_trying = self.trials.get(&trial.subject).is_some_and(|kept| kept.is_trying);
            trial.deaths += u32::from(is_trying);
        }
        trials
    }

    /// Lists the trials.
    pub(super) fn list(&self) -> Vec<Trial> {
        let trials = self.trials.iter().map(|(subject, kept)| Trial {
            subject: subject.clone(),
            deaths: kept.deaths,
            is_convicted: kept.is_convicted,
        });
        trials.collect()
    }
}

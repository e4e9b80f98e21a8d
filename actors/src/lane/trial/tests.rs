//! The plan of a lane's care as a table: every state with every input.

use super::*;
use crate::clock::Timestamp;
use crate::effect::TimerId;
use crate::ids::{Epoch, Generation, LogId, Revision};
use crate::ports::store::{DesiredState, Fence};

/// Where the lanes of these tests stand, and where their log ends when something is to be read.
const POSITION: Offset = Offset(10);
const LOG_END: Offset = Offset(20);

/// Records that a careful lane tries.
const TRIAL_RECORDS: usize = 5;

fn timer() -> TrialSubject {
    TrialSubject::Timer(TimerId { kind: "clean".into(), key: "job-1".into() })
}

fn subjects() -> [TrialSubject; 3] {
    [TrialSubject::Log(POSITION), TrialSubject::Parked(Offset(3)), timer()]
}

fn pending(subject: TrialSubject, deaths: u32) -> Trial {
    Trial { subject, deaths, is_convicted: false }
}

fn convicted(offset: Offset) -> Trial {
    Trial { subject: TrialSubject::Log(offset), deaths: DEATHS_BEFORE_POISON, is_convicted: true }
}

fn opened(starts_at_next: u32, starts_aside: u32, trials: Vec<Trial>) -> LaneOpened {
    LaneOpened {
        fence: Fence { epoch: Epoch(1), revision: Revision(1) },
        next: Some(POSITION),
        last_fingerprint: None,
        log_id: LogId::parse("log").unwrap(),
        layout: crate::layout::Layout::first_of(crate::ids::Topic::JobLifecycle),
        generation: Generation(0),
        starts_at_next,
        starts_aside,
        trials,
        open_gap: None,
        parked: Vec::new(),
        desired: DesiredState::Running,
        held_because: None,
        next_timer: Some(Timestamp::default()),
    }
}

fn planned(trials: Vec<Trial>) -> Trials {
    Trials::plan(&opened(0, 0, trials), POSITION, LOG_END, TRIAL_RECORDS)
}

#[test]
fn plan_every_count_and_trial_decides_what_is_tried_alone() {
    const FEW: u32 = UNCLEAN_ENDS_BEFORE_TRIALS - 1;
    const MANY: u32 = UNCLEAN_ENDS_BEFORE_TRIALS;
    let trials = || {
        let [log, parked, timer] = subjects().map(|subject| pending(subject, 1));
        [None, Some(log), Some(parked), Some(timer), Some(convicted(Offset(3)))]
    };
    // Unclean ends at the position and aside; then what is tried alone (log, aside) for each of: no trial, a
    // pending one of a record, of a parked record, of a timer, and a conviction.
    let rows = [
        (0, 0, [(false, false), (true, false), (false, true), (false, true), (false, false)]),
        (FEW, FEW, [(false, false), (true, false), (false, true), (false, true), (false, false)]),
        (MANY, FEW, [(true, false), (true, false), (true, true), (true, true), (true, false)]),
        (FEW, MANY, [(false, true), (true, true), (false, true), (false, true), (false, true)]),
        (MANY, MANY, [(true, true); 5]),
        (u32::MAX, u32::MAX, [(true, true); 5]),
    ];

    for (at_next, aside, expected) in rows {
        for (trial, (is_log, is_aside)) in trials().into_iter().zip(expected) {
            let opened = opened(at_next, aside, trial.into_iter().collect());
            let waiting = Trials::plan(&opened, POSITION, LOG_END, TRIAL_RECORDS);
            let idle = Trials::plan(&opened, POSITION, POSITION, TRIAL_RECORDS);
            let bare = LaneOpened { next_timer: None, ..opened.clone() };
            let bare = Trials::plan(&bare, POSITION, LOG_END, TRIAL_RECORDS);

            let case = format!("{at_next} {aside} {:?}", opened.trials);
            assert_eq!((waiting.is_log(), waiting.is_aside()), (is_log, is_aside), "{case}");
            // Nothing to read was in nobody's hands.
            assert_eq!((idle.is_log(), idle.is_aside()), (false, is_aside), "{case}");
            // Without a timer or a parked key there is nothing aside.
            assert_eq!((bare.is_log(), bare.is_aside()), (is_log, false), "{case}");
        }
    }
}

#[test]
fn plan_without_trial_records_tries_one() {
    let opened = opened(UNCLEAN_ENDS_BEFORE_TRIALS, 0, Vec::new());
    let mut trials = Trials::plan(&opened, POSITION, LOG_END, 0);
    assert!(trials.is_log());

    trials.passed(POSITION.following());

    assert!(!trials.is_log());
}

#[test]
fn judge_every_number_of_deaths_tries_or_convicts_only_its_subject() {
    let rows = [
        (0, Judgement::Try { deaths: 0 }),
        (1, Judgement::Try { deaths: 1 }),
        (2, Judgement::Try { deaths: 2 }),
        (3, Judgement::Convict { deaths: 3 }),
        (4, Judgement::Convict { deaths: 4 }),
    ];
    for subject in subjects() {
        for (deaths, expected) in rows {
            let trials = planned(vec![pending(subject.clone(), deaths)]);
            for other in subjects() {
                let expected = if other == subject { expected } else { Judgement::Try { deaths: 0 } };
                assert_eq!(trials.judge(&other), expected, "{subject:?} {deaths}: {other:?}");
            }
        }
        let innocent = planned(Vec::new());
        assert_eq!(innocent.judge(&subject), Judgement::Try { deaths: 0 });
    }
}

#[test]
fn judge_convicted_record_that_is_released_is_tried_from_the_start() {
    let trials = planned(vec![convicted(Offset(3))]);

    assert!(trials.is_deadly(Offset(3)) && !trials.is_deadly(POSITION));
    for subject in subjects() {
        assert_eq!(trials.judge(&subject), Judgement::Try { deaths: 0 });
    }
}

#[test]
fn passed_every_place_ends_the_care_where_it_must() {
    let careful = || Trials::plan(&opened(3, 0, Vec::new()), POSITION, LOG_END, TRIAL_RECORDS);
    // Records passed, where the lane stands then, whether it is careful still.
    let rows = [
        (1, Offset(11), true),
        (4, Offset(14), true),
        (5, Offset(15), false),
        (6, Offset(16), false),
        (1, Offset(19), true),
        (1, LOG_END, false),
        (1, Offset(21), false),
    ];
    for (records, position, is_log) in rows {
        let mut trials = careful();
        for left in (0..records).rev() {
            trials.passed(Offset(position.0 - left));
        }
        assert_eq!(trials.is_log(), is_log, "{records} {position}");
    }
    let mut careless = planned(Vec::new());
    careless.passed(Offset(11));
    assert!(!careless.is_log());
}

#[test]
fn rested_aside_leaves_the_log_as_it_was() {
    for (at_next, is_log) in [(0, false), (UNCLEAN_ENDS_BEFORE_TRIALS, true)] {
        for aside in [0, UNCLEAN_ENDS_BEFORE_TRIALS] {
            let mut trials =
                Trials::plan(&opened(at_next, aside, Vec::new()), POSITION, LOG_END, TRIAL_RECORDS);

            trials.rested_aside();

            assert_eq!((trials.is_log(), trials.is_aside()), (is_log, false));
        }
    }
}

#[test]
fn settle_every_end_of_every_subject_forgets_or_keeps_in_mind() {
    let parked = Offset(3);
    for subject in subjects() {
        for end in [TrialEnd::Survived, TrialEnd::Convicted] {
            // Nothing known, its trial pending, its record convicted before, both, and another's trial.
            let other = pending(TrialSubject::Log(Offset(17)), 2);
            let own = pending(subject.clone(), 3);
            let record = subject.offset().map(convicted);
            let states = [
                vec![],
                vec![own.clone()],
                record.clone().into_iter().collect(),
                // The trial of a record of the log and its conviction are one row.
                match &subject {
                    TrialSubject::Parked(_) => vec![own.clone(), convicted(parked)],
                    TrialSubject::Log(_) | TrialSubject::Timer(_) => vec![own.clone()],
                },
                vec![own, other.clone()],
            ];
            for state in states {
                let is_other_kept = state.contains(&other);
                let mut trials = planned(state.clone());

                trials.settle(vec![SettledTrial { subject: subject.clone(), end }]);

                let case = format!("{subject:?} {end:?} {state:?}");
                let kept = record.as_ref().filter(|_| end == TrialEnd::Convicted);
                let mut left: Vec<Trial> = trials.stored.values().cloned().collect();
                left.sort_by_key(|trial| trial.is_convicted);
                let wanted = is_other_kept.then_some(other.clone()).into_iter().chain(kept.cloned());
                assert_eq!(left, wanted.collect::<Vec<_>>(), "{case}");
                assert_eq!(trials.judge(&subject), Judgement::Try { deaths: 0 }, "{case}");
            }
        }
    }
}

#[test]
fn settle_nothing_changes_nothing() {
    let mut trials = planned(vec![pending(timer(), 2)]);
    let before = trials.clone();

    trials.settle(Vec::new());

    assert_eq!(trials, before);
}

#[test]
fn settled_conviction_and_survival_are_told_apart() {
    for subject in subjects() {
        assert_eq!(
            settled(&subject, true),
            SettledTrial { subject: subject.clone(), end: TrialEnd::Convicted }
        );
        assert_eq!(settled(&subject, false), SettledTrial { subject, end: TrialEnd::Survived });
    }
}

#[test]
fn longest_wait_grows_with_each_death_and_never_overflows() {
    let delay = Duration::from_secs(4);

    assert_eq!(longest_wait(delay, 0), delay);
    assert_eq!(longest_wait(delay, DEATHS_BEFORE_POISON - 2), Duration::from_secs(32));
    assert_eq!(longest_wait(Duration::MAX, u32::MAX), Duration::MAX);
}

#[test]
fn part_of_stays_within_the_longest_delay() {
    for longest in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(500), Duration::MAX] {
        for random in [0, 1, 500_000, 500_001, u64::MAX] {
            assert!(part_of(longest, random) <= longest, "{longest:?} {random}");
        }
    }
}

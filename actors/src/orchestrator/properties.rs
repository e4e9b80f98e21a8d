//! What holds whatever comes in whatever order, with writes that are lost, repeated or overtaken.

use proptest::prelude::*;

use super::fixtures::{
    World, accepted, cancel, end, end_unstarted, failed_exit, refused, samples, started, submit,
};
use super::{Decision, Input, is_terminal};
use crate::event::{Event, JobStatus, Payload};
use crate::ids::{Sequence, Topic};
use crate::ports::scheduler::AttemptExit;

/// Samples that the attempt of a random life takes.
const SAMPLES_TAKEN: u64 = 12;

/// What happens in one step of a random life.
#[derive(Debug, Clone)]
enum Happening {
    /// The input is decided and written.
    Written(Input),
    /// The input is decided, then the process dies before the write.
    LostBeforeWrite(Input),
    /// Both inputs are decided from the same row; both are then written.
    Raced(Input, Input),
}

fn any_exit() -> impl Strategy<Value = AttemptExit> {
    prop_oneof![Just(AttemptExit::Completed), Just(AttemptExit::Cancelled), Just(failed_exit())]
}

fn any_end() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => (any_exit(), 0..=SAMPLES_TAKEN).prop_map(|(exit, from)| {
            let mut ended = end(exit);
            ended.samples = samples(from..SAMPLES_TAKEN);
            ended.samples_taken = SAMPLES_TAKEN;
            Input::Ended(ended)
        }),
        1 => any_exit().prop_map(|exit| Input::Ended(end_unstarted(exit))),
    ]
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(submit()),
        3 => Just(accepted()),
        1 => Just(refused()),
        3 => Just(started()),
        6 => (0..SAMPLES_TAKEN, 1..6_u64)
            .prop_map(|(from, count)| Input::Samples(samples(from..(from + count).min(SAMPLES_TAKEN)))),
        2 => any_end(),
        2 => Just(cancel()),
        1 => Just(Input::CancelAnswered),
        1 => Just(Input::Lost),
    ]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => any_input().prop_map(Happening::Written),
        1 => any_input().prop_map(Happening::LostBeforeWrite),
        2 => (any_input(), any_input()).prop_map(|(first, second)| Happening::Raced(first, second)),
    ]
}

/// Writes what a decision says; a write that another one overtook changes nothing.
fn write(world: &mut World, decision: Result<Decision, super::Refusal>) {
    if let Ok(Decision::Write(write)) = decision {
        let row = world.row.clone();
        if !world.write(*write) {
            assert_eq!(world.row, row);
        }
    }
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Written(input) => {
            let decision = world.decide(input);
            write(world, decision);
        }
        Happening::LostBeforeWrite(input) => {
            let _lost = world.decide(input);
        }
        Happening::Raced(first, second) => {
            let decisions = [world.decide(first), world.decide(second)];
            for decision in decisions {
                write(world, decision);
            }
        }
    }
}

fn of_topic(world: &World, topic: Topic) -> Vec<&Event> {
    world.published.iter().filter(|event| event.topic() == topic).collect()
}

fn sequences_are_dense(events: &[&Event]) -> bool {
    events.iter().enumerate().all(|(index, event)| event.sequence == Some(Sequence(index as u64 + 1)))
}

fn typed_status(payload: &Payload) -> Option<JobStatus> {
    match payload {
        Payload::JobQueued(_) => Some(JobStatus::Queued),
        Payload::JobRunning(_) => Some(JobStatus::Running),
        Payload::JobCompleted(_) => Some(JobStatus::Completed),
        Payload::JobFailed(_) => Some(JobStatus::Failed),
        Payload::JobCancelled(_) => Some(JobStatus::Cancelled),
        _ => None,
    }
}

proptest! {
    #[test]
    fn life_any_interleaving_keeps_sequences_dense_and_pairs_adjacent(
        life in proptest::collection::vec(any_happening(), 0..60),
    ) {
        let mut world = World::default();

        for happening in &life {
            happen(&mut world, happening);
        }

        let lifecycle = of_topic(&world, Topic::JobLifecycle);
        prop_assert!(sequences_are_dense(&lifecycle));
        prop_assert!(sequences_are_dense(&of_topic(&world, Topic::JobMetrics)));
        let mut status = JobStatus::Submitted;
        for pair in lifecycle.get(1..).unwrap_or_default().chunks(2) {
            let [changed, typed] = pair else { panic!("a transition without its second event") };
            let Payload::JobStatusChanged(changed) = &changed.payload else { panic!("not a pair") };
            prop_assert_eq!(changed.previous_status, status);
            prop_assert_eq!(Some(changed.current_status), typed_status(&typed.payload));
            prop_assert_ne!(changed.current_status, status);
            status = changed.current_status;
        }
        prop_assert_eq!(world.row.as_ref().map_or(JobStatus::Submitted, |row| row.status), status);
    }

    #[test]
    fn life_any_interleaving_never_leaves_terminal(life in proptest::collection::vec(any_happening(), 0..60)) {
        let mut world = World::default();
        let mut ended = None;

        for happening in &life {
            happen(&mut world, happening);
            if let Some(row) = &world.row {
                match &ended {
                    Some(ended) => prop_assert_eq!(ended, row),
                    None if is_terminal(row) => ended = Some(row.clone()),
                    None => {}
                }
            }
        }
    }

    #[test]
    fn life_any_interleaving_publishes_each_sample_once(
        life in proptest::collection::vec(any_happening(), 0..60),
    ) {
        let mut world = World::default();

        for happening in &life {
            happen(&mut world, happening);
        }

        let metrics = of_topic(&world, Topic::JobMetrics);
        let mut published = Vec::new();
        let mut summaries = 0;
        for event in &metrics {
            let Payload::JobMetricsRecorded(recorded) = &event.payload else { panic!("not metrics") };
            if recorded.summary {
                summaries += 1;
            } else {
                prop_assert_eq!(summaries, 0, "a sample after the totals");
                // Samples of these tests carry their index as processor use.
                published.push(recorded.cpu_usage_percent as u64);
            }
        }
        let count = world.row.as_ref().map_or(0, |row| row.samples_published);
        prop_assert_eq!(published, (0..count).collect::<Vec<_>>());
        prop_assert!(summaries <= 1);
        let completed_as_reported =
            world.row.as_ref().is_some_and(|row| row.status == JobStatus::Completed && summaries == 1);
        prop_assert!(!completed_as_reported || count == SAMPLES_TAKEN);
    }

    #[test]
    fn decide_any_row_and_input_asked_again_after_its_write_does_nothing_more(
        life in proptest::collection::vec(any_happening(), 0..20),
        input in any_input(),
    ) {
        let mut world = World::default();
        for happening in &life {
            happen(&mut world, happening);
        }

        let _first = world.apply(&input);
        let published = world.published.len();
        let _again = world.apply(&input);

        prop_assert_eq!(world.published.len(), published);
    }
}

//! The jobs behaviour over whole workspaces: views, steps, refusals, timers.

use proptest::prelude::*;

use super::*;
use crate::event::JobStatus::{self, Cancelled, Completed, Failed, Queued, Running, Submitted};
use crate::ids::Sequence;
use crate::jobs::fixture::{Rows, at, changed, event_id, job, pair, typed};
use crate::state::LifecycleOwner;

const CLEAN_DELAY: Duration = Duration::from_secs(3_600);

fn lane() -> Rows<Jobs> {
    Rows::new(Jobs::new(CLEAN_DELAY))
}

/// Lists what the orchestrator publishes of a job that fails once and then completes.
fn owned_life(job_id: &JobId) -> Vec<Event> {
    let mut life = vec![typed(job_id, 1, Submitted, 0, false)];
    life.extend(pair(job_id, 2, Submitted, Queued, 1, false));
    life.extend(pair(job_id, 4, Queued, Running, 1, false));
    life.extend(pair(job_id, 6, Running, Failed, 1, true));
    life.extend(pair(job_id, 8, Failed, Queued, 2, false));
    life.extend(pair(job_id, 10, Queued, Running, 2, false));
    life.extend(pair(job_id, 12, Running, Completed, 2, false));
    life
}

fn statuses(lane: &Rows<Jobs>) -> Vec<(u64, JobStatus)> {
    let steps = lane.committed.iter().flat_map(|effects| &effects.timeline);
    steps.map(|step| (step.sequence.0, step.status)).collect()
}

fn timers(lane: &Rows<Jobs>) -> Vec<Timer> {
    lane.committed.iter().flat_map(|effects| effects.timers_set.clone()).collect()
}

#[test]
fn jobs_whole_owned_life_is_applied_in_order() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);

    let answers = lane.apply(&life);

    assert!(answers.iter().all(Option::is_none), "{answers:?}");
    let view = lane.view(&job_id).expect("a view");
    assert_eq!((view.status, view.attempt.0, view.origin), (Completed, 2, JobOrigin::Owned));
    assert_eq!((view.submitted_at, view.status_since, view.updated_at), (at(1), at(12), lane.now));
    assert!(view.is_confirmed && view.is_terminal());
    assert_eq!(view.agent.as_ref().map(crate::ids::AgentName::as_str), Some("calibrate"));
    assert_eq!(statuses(&lane).len(), life.len());
    assert_eq!(lane.notices.last(), Some(&Notice::JobChanged(view.clone())));
    assert_eq!(lane.notices.len(), life.len());
}

#[test]
fn jobs_timeline_step_tells_what_happened() {
    let (mut lane, job_id) = (lane(), job("a"));

    lane.apply(&[typed(&job_id, 5, Failed, 2, true)]);

    let step = &lane.committed[0].timeline[0];
    assert_eq!((step.job_id.as_str(), step.sequence, step.offset.0), ("a", Sequence(5), 0));
    assert_eq!(
        (step.status, step.attempt.0, step.happened_at, step.applied_at),
        (Failed, 2, at(5), lane.now)
    );
    let said: serde_json::Value = serde_json::from_str(&step.payload).expect("JSON");
    assert_eq!(said["error_code"], "exit_code");
    assert_eq!(said["will_retry"], true);
}

#[test]
fn jobs_foreign_record_of_an_owned_job_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);
    lane.apply(&life[..3]);
    let mut forged = changed(&job_id, 4, Queued, Running, 1, false);
    forged.event_id = event_id(&job("other"), 4);
    let unwritten = changed(&job_id, 99, Queued, Cancelled, 1, false);
    let key = StateKey::LifecycleOwner(job_id.clone(), Sequence(99));
    lane.rows.insert(key, StateValue::LifecycleOwner(LifecycleOwner { event_id: None }));
    let before = lane.view(&job_id).cloned();

    let answers = lane.apply(&[forged, unwritten]);

    assert_eq!(answers, [Some("foreign_event"), Some("foreign_event")]);
    assert_eq!(lane.view(&job_id).cloned(), before);
    assert_eq!(statuses(&lane).len(), 3);
    assert_eq!(lane.apply(&life[3..4]), [None]);
}

#[test]
fn jobs_record_of_an_owned_job_that_nobody_vouches_for_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life[..1]);
    lane.apply(&life[..1]);

    let answers = lane.apply(&life[1..2]);

    assert_eq!(answers, [Some("foreign_event")]);
}

#[test]
fn jobs_external_view_gives_way_to_the_owner() {
    let (mut lane, job_id) = (lane(), job("a"));
    lane.apply(&[typed(&job_id, 9, Completed, 1, false)]);
    let life = owned_life(&job_id);
    lane.own(&life);

    let answers = lane.apply(&life);

    assert!(answers.iter().all(Option::is_none), "{answers:?}");
    let view = lane.view(&job_id).expect("a view");
    assert_eq!((view.origin, view.attempt.0, view.submitted_at), (JobOrigin::Owned, 2, at(1)));
}

#[test]
fn jobs_owned_late_sequences_are_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);
    lane.apply(&life[..3]);

    let late = lane.apply(&life[1..3]);

    assert_eq!(late, [Some("late_sequence"), Some("late_sequence")]);
}

#[test]
fn jobs_owned_gap_over_several_states_jumps_to_what_the_event_says() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);
    lane.apply(&life[..2]);

    let answers = lane.apply(&life[7..]);

    assert!(answers.iter().all(Option::is_none), "{answers:?}");
    let view = lane.view(&job_id).expect("a view");
    assert_eq!((view.status, view.attempt.0, view.last_sequence), (Completed, 2, Sequence(13)));
    assert!(view.is_confirmed);
    assert_eq!(timers(&lane).len(), 1);
}

#[test]
fn jobs_owned_life_without_any_one_event_still_ends() {
    let job_id = job("a");
    let life = owned_life(&job_id);

    for missing in 0..life.len() {
        let mut lane = lane();
        lane.own(&life);
        let told: Vec<Event> = [&life[..missing], &life[missing + 1..]].concat();

        let answers = lane.apply(&told);

        assert!(answers.iter().all(Option::is_none), "without {}: {answers:?}", missing + 1);
        let view = lane.view(&job_id).expect("a view");
        assert_eq!((view.status, view.attempt.0), (Completed, 2), "without {}", missing + 1);
        assert_eq!(view.origin, JobOrigin::Owned, "without {}", missing + 1);
        assert_eq!(timers(&lane).len(), 1, "without {}", missing + 1);
    }
}

#[test]
fn jobs_foreign_record_that_leaves_a_gap_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);
    lane.apply(&life[..1]);
    let mut forged = life[5].clone();
    forged.event_id = event_id(&job("other"), 6);

    let answers = lane.apply(&[forged]);

    assert_eq!(answers, [Some("foreign_event")]);
    assert_eq!(lane.view(&job_id).map(|view| view.status), Some(Submitted));
}

#[test]
fn jobs_owned_gap_behind_the_end_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let mut life = owned_life(&job_id);
    life.extend(pair(&job_id, 14, Completed, Failed, 2, false));
    lane.own(&life);
    lane.apply(&life[..13]);

    let answers = lane.apply(&life[14..]);

    assert_eq!(answers, [Some("terminal_job")]);
    assert_eq!(lane.view(&job_id).map(|view| view.status), Some(Completed));
}

#[test]
fn jobs_external_gaps_are_taken_and_late_ones_refused() {
    let (mut lane, job_id) = (lane(), job("a"));

    let answers = lane.apply(&[
        typed(&job_id, 5, Queued, 1, false),
        changed(&job_id, 9, Queued, Completed, 1, false),
        typed(&job_id, 7, Running, 1, false),
        typed(&job_id, 11, Completed, 1, false),
        changed(&job_id, 12, Completed, Running, 1, false),
    ]);

    assert_eq!(answers, [None, None, Some("late_sequence"), None, Some("terminal_job")]);
    let view = lane.view(&job_id).expect("a view");
    assert_eq!(
        (view.origin, view.status, view.last_sequence),
        (JobOrigin::External, Completed, Sequence(11))
    );
    assert!(view.is_confirmed);
}

#[test]
fn jobs_external_typed_only_and_changed_only_reach_the_same_state() {
    let path = [(Submitted, 0), (Queued, 1), (Running, 1), (Completed, 1)];
    let (typed_job, changed_job) = (job("typed"), job("changed"));
    let mut lane = lane();

    for (sequence, (status, attempt)) in (1..).zip(path) {
        let previous = lane.view(&changed_job).map_or(Submitted, |view| view.status);
        let answers = lane.apply(&[
            typed(&typed_job, sequence, status, attempt, false),
            changed(&changed_job, sequence, previous, status, attempt, false),
        ]);
        assert_eq!(answers, [None, None]);
    }

    let (left, right) = (lane.view(&typed_job).expect("a view"), lane.view(&changed_job).expect("a view"));
    assert_eq!((left.status, left.is_confirmed), (Completed, true));
    assert_eq!((right.status, right.is_confirmed), (Completed, false));
}

#[test]
fn jobs_external_changed_after_its_typed_event_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));

    let answers =
        lane.apply(&[typed(&job_id, 1, Queued, 1, false), changed(&job_id, 2, Submitted, Queued, 1, false)]);

    assert_eq!(answers, [None, Some("illegal_transition")]);
}

#[test]
fn jobs_event_without_job_or_sequence_is_refused() {
    let (mut lane, job_id) = (lane(), job("a"));
    let mut nobody = typed(&job_id, 1, Queued, 1, false);
    nobody.job_id = None;
    let mut unnumbered = typed(&job_id, 1, Queued, 1, false);
    unnumbered.sequence = None;

    assert_eq!(lane.apply(&[nobody, unnumbered]), [Some("not_lifecycle"), Some("not_lifecycle")]);
    assert!(lane.rows.is_empty());
}

#[test]
fn jobs_end_of_an_owned_job_sets_one_clean_timer() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);

    lane.apply(&life);

    let id = TimerId { kind: CLEAN_TIMER.to_owned(), key: "a".to_owned() };
    assert_eq!(timers(&lane), [Timer { id, due_at: lane.now.plus(CLEAN_DELAY) }]);
}

#[test]
fn jobs_clean_timer_orders_every_attempt_each_time() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = owned_life(&job_id);
    lane.own(&life);
    lane.apply(&life);
    let timer = timers(&lane).remove(0);
    lane.now = timer.due_at;

    lane.tick(&timer);
    lane.tick(&timer);

    let wanted: Vec<Order> = [1, 2]
        .map(|attempt| Order {
            job_id: job_id.clone(),
            attempt: Attempt(attempt),
            kind: OrderKind::Clean,
            ordered_at: timer.due_at,
        })
        .into();
    let [.., first, second] = &lane.committed[..] else { panic!("two ticks were committed") };
    assert_eq!(first.orders, wanted);
    assert_eq!(second.orders, wanted);
}

#[test]
fn jobs_cancelled_before_any_attempt_still_cleans_the_first() {
    let (mut lane, job_id) = (lane(), job("a"));
    let mut life = vec![typed(&job_id, 1, Submitted, 0, false)];
    life.extend(pair(&job_id, 2, Submitted, Cancelled, 1, false));
    lane.own(&life);
    lane.apply(&life);
    let timer = timers(&lane).remove(0);

    lane.tick(&timer);

    let attempts: Vec<u32> =
        lane.committed.last().expect("a tick").orders.iter().map(|order| order.attempt.0).collect();
    assert_eq!(attempts, [1]);
}

#[test]
fn jobs_end_of_an_external_job_cleans_nothing() {
    let (mut lane, job_id) = (lane(), job("a"));

    lane.apply(&[typed(&job_id, 1, Completed, 1, false)]);
    lane.tick(&Timer { id: TimerId { kind: CLEAN_TIMER.to_owned(), key: "a".to_owned() }, due_at: lane.now });

    assert!(timers(&lane).iter().all(|timer| timer.id.kind == EXTERNAL_TIMER));
    assert!(lane.committed.last().expect("a tick").orders.is_empty());
}

/// Fires the timer of an external job so long after its first event; gives what became of its view.
fn look_after(lane: &mut Rows<Jobs>, age: Duration) -> Option<Retirement> {
    let timer = timers(lane).pop().expect("a timer");
    lane.now = at(1_000).plus(age);
    lane.tick(&timer);
    lane.committed.last().expect("a tick").views_retired.first().map(|retired| retired.retirement)
}

#[test]
fn jobs_external_job_that_is_silent_is_left_and_then_forgotten() {
    let (mut lane, job_id) = (lane(), job("a"));
    let ExternalAges { silent, forgotten } = ExternalAges::default();
    let first = lane.now;

    lane.apply(&[typed(&job_id, 1, Running, 1, false)]);
    let due = timers(&lane).pop().expect("a timer").due_at;
    let became = [silent / 2, silent, forgotten, forgotten].map(|age| look_after(&mut lane, age));

    assert_eq!(due, first.plus(silent));
    let wanted = [None, Some(Retirement::Silent), Some(Retirement::Forgotten), Some(Retirement::Forgotten)];
    assert_eq!(became, wanted);
    assert_eq!(lane.notices.last(), Some(&Notice::JobLeft(job_id)));
}

#[test]
fn jobs_external_job_that_ended_is_kept_until_it_is_forgotten() {
    let (mut lane, job_id) = (lane(), job("a"));
    let ExternalAges { silent, forgotten } = ExternalAges::default();

    lane.apply(&[typed(&job_id, 1, Completed, 1, false)]);
    let became = [silent, forgotten].map(|age| look_after(&mut lane, age));

    assert_eq!(became, [None, Some(Retirement::Forgotten)]);
}

#[test]
fn jobs_external_job_that_is_left_goes_on_where_it_was() {
    let (mut lane, job_id) = (lane(), job("a"));
    let silent = ExternalAges::default().silent;
    lane.apply(&[typed(&job_id, 1, Submitted, 0, false), typed(&job_id, 5, Running, 1, false)]);
    let left = look_after(&mut lane, silent);

    let late = lane.apply(&[typed(&job_id, 3, Queued, 1, false)]);
    let next = lane.apply(&[typed(&job_id, 6, Completed, 1, false)]);

    assert_eq!(left, Some(Retirement::Silent));
    assert_eq!((late, next), (vec![Some("late_sequence")], vec![None]));
    assert_eq!(lane.view(&job_id).map(|view| view.status), Some(Completed));
}

#[test]
fn jobs_timer_of_another_kind_or_job_orders_nothing() {
    let mut lane = lane();

    for (kind, key) in [("other", "a"), (CLEAN_TIMER, "unknown"), (CLEAN_TIMER, "")] {
        lane.tick(&Timer { id: TimerId { kind: kind.to_owned(), key: key.to_owned() }, due_at: lane.now });
    }

    assert!(lane.committed.iter().all(|effects| effects.row_count() == 0));
}

fn any_event() -> impl Strategy<Value = Event> {
    let jobs = prop::sample::select(vec!["a", "b", "c"]);
    let status = || prop::sample::select(JobStatus::ALL.to_vec());
    (jobs, 1_u64..15, status(), status(), 0_u32..3, any::<bool>(), any::<bool>()).prop_map(
        |(job_id, sequence, previous, status, attempt, will_retry, is_typed)| {
            let job_id = job(job_id);
            if is_typed {
                typed(&job_id, sequence, status, attempt, will_retry)
            } else {
                changed(&job_id, sequence, previous, status, attempt, will_retry)
            }
        },
    )
}

/// Lists events of external jobs, mixed with an owned job's life in order.
fn any_events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(prop_oneof![any_event().prop_map(Some), Just(None)], 1..60).prop_map(|picks| {
        let mut life = owned_life(&job("owned")).into_iter();
        picks.into_iter().filter_map(|pick| pick.or_else(|| life.next())).collect()
    })
}

proptest! {
    #[test]
    fn jobs_any_batch_boundaries_give_the_same_result(events in any_events(), sizes in prop::collection::vec(1_usize..7, 1..20)) {
        let (mut whole, mut split) = (lane(), lane());
        whole.own(&owned_life(&job("owned")));
        split.own(&owned_life(&job("owned")));

        let wanted = whole.apply(&events);
        let got = split.apply_in_batches(&events, &sizes);

        prop_assert_eq!(got, wanted);
        prop_assert_eq!(&split.rows, &whole.rows);
        prop_assert_eq!(statuses(&split), statuses(&whole));
        prop_assert_eq!(timers(&split), timers(&whole));
        prop_assert_eq!(&split.notices, &whole.notices);
    }

    #[test]
    fn jobs_applied_events_again_are_late_and_change_nothing(events in any_events()) {
        let mut lane = lane();
        lane.own(&owned_life(&job("owned")));
        let answers = lane.apply(&events);
        let rows = lane.rows.clone();
        let applied: Vec<Event> =
            events.into_iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(event, _)| event).collect();

        let again = lane.apply(&applied);

        prop_assert!(again.iter().all(|answer| *answer == Some("late_sequence")));
        prop_assert_eq!(&lane.rows, &rows);
    }

    #[test]
    fn jobs_one_jobs_life_does_not_depend_on_others(events in any_events()) {
        let (mut mixed, mut alone) = (lane(), lane());
        let owner = job("a");

        mixed.apply(&events);
        let own_events: Vec<Event> =
            events.into_iter().filter(|event| event.job_id.as_ref() == Some(&owner)).collect();
        alone.apply(&own_events);

        prop_assert_eq!(mixed.view(&owner), alone.view(&owner));
    }

    #[test]
    fn jobs_owned_life_with_holes_follows_what_is_left(kept in prop::collection::vec(any::<bool>(), 13)) {
        let job_id = job("a");
        let life = owned_life(&job_id);
        let mut lane = lane();
        lane.own(&life);
        let told: Vec<Event> =
            life.iter().zip(&kept).filter(|(_, is_kept)| **is_kept).map(|(event, _)| event.clone()).collect();

        let answers = lane.apply(&told);

        prop_assert!(answers.iter().all(Option::is_none), "{answers:?}");
        let last = told.last().and_then(|event| event.sequence);
        prop_assert_eq!(lane.view(&job_id).map(|view| view.last_sequence), last);
        prop_assert_eq!(statuses(&lane).len(), told.len());
        let has_end = kept[11] || kept[12];
        prop_assert_eq!(lane.view(&job_id).is_some_and(JobView::is_terminal), has_end);
        prop_assert_eq!(timers(&lane).len(), usize::from(has_end));
    }
}

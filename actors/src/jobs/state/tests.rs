//! Every (state, input) pair of the state machine, and what holds for any run of inputs.

use proptest::prelude::*;

use super::*;

const AT: Timestamp = Timestamp::from_micros(7);

fn stay(is_confirmed: bool) -> Stay {
    Stay { attempt: Attempt(1), since: Timestamp::from_micros(1), is_confirmed }
}

fn state(name: &str, is_confirmed: bool) -> State {
    let stay = stay(is_confirmed);
    match name {
        "submitted" => State::Submitted { since: stay.since, is_confirmed },
        "queued" => State::Queued(stay),
        "running" => State::Running(stay),
        "completed" => State::Completed(stay),
        "waiting" => State::Failed { stay, will_retry: true },
        "failed" => State::Failed { stay, will_retry: false },
        "cancelled" => State::Cancelled(stay),
        other => panic!("no state is named `{other}`"),
    }
}

/// Gives the attempt that fits an input best: the next one where a failed attempt is followed by one.
fn fitting(state: State, status: JobStatus, is_typed: bool) -> Attempt {
    let confirms = is_typed && status == JobStatus::Failed && !state.is_confirmed();
    let follows = state.will_retry() && status != JobStatus::Cancelled && !confirms;
    if follows { Attempt(2) } else { Attempt(1) }
}

fn input(state: State, status: JobStatus, is_typed: bool) -> Input {
    let target =
        Target { status, attempt: fitting(state, status, is_typed), will_retry: state.will_retry(), at: AT };
    if is_typed { Input::Typed(target) } else { Input::Changed { previous: state.status(), target } }
}

/// Gives the letter of a table's cell: what the machine answers.
fn letter(answer: &Result<(State, Step), Refusal>) -> char {
    match answer {
        Ok((_, Step::Entered)) => 'E',
        Ok((_, Step::Confirmed)) => 'C',
        Err(Refusal::Terminal { .. }) => 'T',
        Err(Refusal::Illegal { .. }) => 'i',
        Err(Refusal::WrongAttempt { .. }) => 'a',
        Err(Refusal::WrongPrevious { .. }) => 'v',
        Err(Refusal::PairDiffers { .. }) => 'd',
        Err(Refusal::PairOpen { .. }) => 'p',
        Err(Refusal::PairOrder { .. }) => 'o',
        Err(Refusal::NotSubmitted { .. }) => 'n',
    }
}

/// A row: state, whether it is confirmed, and the answers to `job.status_changed` and to the typed event of
/// SUBMITTED, QUEUED, RUNNING, COMPLETED, FAILED and CANCELLED.
type Row = (&'static str, bool, &'static str, &'static str);

const OWNED: [Row; 14] = [
    ("submitted", true, "iEiiEE", "oooooo"),
    ("submitted", false, "pppppp", "Cppppp"),
    ("queued", true, "iiEiEE", "oooooo"),
    ("queued", false, "pppppp", "pCpppp"),
    ("running", true, "iiiEEE", "oooooo"),
    ("running", false, "pppppp", "ppCppp"),
    ("completed", true, "TTTTTT", "TTTTTT"),
    ("completed", false, "TTTTTT", "TTTCTT"),
    ("waiting", true, "iEiiiE", "oooooo"),
    ("waiting", false, "pppppp", "ppppCp"),
    ("failed", true, "TTTTTT", "TTTTTT"),
    ("failed", false, "TTTTTT", "TTTTCT"),
    ("cancelled", true, "TTTTTT", "TTTTTT"),
    ("cancelled", false, "TTTTTT", "TTTTTC"),
];

const EXTERNAL: [Row; 14] = [
    ("submitted", true, "iEEEEE", "iEEEEE"),
    ("submitted", false, "iEEEEE", "CEEEEE"),
    ("queued", true, "iiEEEE", "iiEEEE"),
    ("queued", false, "iiEEEE", "iCEEEE"),
    ("running", true, "iiiEEE", "iiiEEE"),
    ("running", false, "iiiEEE", "iiCEEE"),
    ("completed", true, "TTTTTT", "TTTTTT"),
    ("completed", false, "TTTTTT", "TTTCTT"),
    ("waiting", true, "iEEEEE", "iEEEEE"),
    ("waiting", false, "iEEEEE", "iEEECE"),
    ("failed", true, "TTTTTT", "TTTTTT"),
    ("failed", false, "TTTTTT", "TTTTCT"),
    ("cancelled", true, "TTTTTT", "TTTTTT"),
    ("cancelled", false, "TTTTTT", "TTTTTC"),
];

fn assert_table(table: &[Row], origin: JobOrigin) {
    for (name, is_confirmed, changed, typed) in table {
        let state = state(name, *is_confirmed);
        for (is_typed, wanted) in [(false, changed), (true, typed)] {
            let answers = JobStatus::ALL.map(|status| state.next(input(state, status, is_typed), origin));

            let letters: String = answers.iter().map(letter).collect();
            assert_eq!(letters, *wanted, "{origin:?} {name} confirmed={is_confirmed} typed={is_typed}");
            for (status, answer) in JobStatus::ALL.into_iter().zip(&answers) {
                assert_reached(state, status, is_typed, answer);
            }
        }
    }
}

fn assert_reached(from: State, status: JobStatus, is_typed: bool, answer: &Result<(State, Step), Refusal>) {
    let Ok((reached, step)) = answer else { return };

    assert_eq!(reached.status(), status);
    match step {
        Step::Entered => {
            assert_eq!(reached.since(), AT);
            assert_eq!(reached.is_confirmed(), is_typed);
            assert_eq!(reached.attempt(), fitting(from, status, is_typed));
        }
        Step::Confirmed => {
            assert_eq!(reached.since(), from.since());
            assert!(reached.is_confirmed());
            assert_eq!(reached.attempt(), from.attempt());
        }
    }
}

#[test]
fn owned_job_every_input_follows_the_table() {
    assert_table(&OWNED, JobOrigin::Owned);
}

#[test]
fn external_job_every_input_follows_the_table() {
    assert_table(&EXTERNAL, JobOrigin::External);
}

#[test]
fn first_event_of_an_owned_job_must_be_its_submission() {
    for status in JobStatus::ALL {
        let target = Target { status, attempt: Attempt(1), will_retry: false, at: AT };

        let typed = State::first(Input::Typed(target), JobOrigin::Owned);
        let changed = State::first(Input::Changed { previous: status, target }, JobOrigin::Owned);

        let is_submission = status == JobStatus::Submitted;
        assert_eq!(typed.is_ok(), is_submission, "{status}");
        assert_eq!(changed, Err(Refusal::NotSubmitted { got: status }));
    }
}

#[test]
fn first_event_of_an_external_job_is_taken_as_found() {
    for status in JobStatus::ALL {
        let target = Target { status, attempt: Attempt(3), will_retry: true, at: AT };

        let typed = State::first(Input::Typed(target), JobOrigin::External).expect("any status is taken");
        let changed = State::first(Input::Changed { previous: status, target }, JobOrigin::External)
            .expect("any status is taken");

        assert_eq!((typed.status(), typed.is_confirmed()), (status, true));
        assert_eq!((changed.status(), changed.is_confirmed()), (status, false));
        assert_eq!(typed.will_retry(), status == JobStatus::Failed);
    }
}

/// A row: state, status, attempt that the event says, and the letter for an owned and an external job.
const ATTEMPTS: [(&str, JobStatus, u32, char, char); 14] = [
    ("submitted", JobStatus::Queued, 0, 'a', 'E'),
    ("submitted", JobStatus::Queued, 1, 'E', 'E'),
    ("submitted", JobStatus::Queued, 2, 'a', 'E'),
    ("queued", JobStatus::Running, 0, 'a', 'a'),
    ("queued", JobStatus::Running, 2, 'a', 'a'),
    ("running", JobStatus::Failed, 2, 'a', 'a'),
    ("waiting", JobStatus::Queued, 0, 'a', 'a'),
    ("waiting", JobStatus::Queued, 1, 'a', 'a'),
    ("waiting", JobStatus::Queued, 2, 'E', 'E'),
    ("waiting", JobStatus::Queued, 3, 'a', 'E'),
    ("waiting", JobStatus::Running, 1, 'i', 'a'),
    ("waiting", JobStatus::Failed, 1, 'i', 'a'),
    ("waiting", JobStatus::Cancelled, 1, 'E', 'E'),
    ("waiting", JobStatus::Cancelled, 2, 'a', 'a'),
];

#[test]
fn transition_any_attempt_follows_the_table() {
    for (name, status, attempt, owned, external) in ATTEMPTS {
        let state = state(name, true);
        let target = Target { status, attempt: Attempt(attempt), will_retry: false, at: AT };
        let input = Input::Changed { previous: state.status(), target };

        let letters =
            [JobOrigin::Owned, JobOrigin::External].map(|origin| letter(&state.next(input, origin)));

        assert_eq!(letters, [owned, external], "{name} → {status} attempt {attempt}");
    }
}

#[test]
fn pair_with_another_attempt_does_not_confirm() {
    let queued = state("queued", false);
    let target = Target { status: JobStatus::Queued, attempt: Attempt(2), will_retry: false, at: AT };

    let owned = queued.next(Input::Typed(target), JobOrigin::Owned);
    let external = queued.next(Input::Typed(target), JobOrigin::External);

    assert_eq!((letter(&owned), letter(&external)), ('p', 'i'));
}

#[test]
fn pair_that_disagrees_about_the_retry_is_refused() {
    for origin in [JobOrigin::Owned, JobOrigin::External] {
        let target = Target { status: JobStatus::Failed, attempt: Attempt(1), will_retry: false, at: AT };

        let answer = state("waiting", false).next(Input::Typed(target), origin);

        assert_eq!(answer, Err(Refusal::PairDiffers { wanted: true, got: false }));
    }
}

#[test]
fn owned_job_with_another_previous_status_is_refused() {
    let target = Target { status: JobStatus::Running, attempt: Attempt(1), will_retry: false, at: AT };
    let input = Input::Changed { previous: JobStatus::Submitted, target };

    let owned = state("queued", true).next(input, JobOrigin::Owned);
    let external = state("queued", true).next(input, JobOrigin::External);

    assert_eq!((letter(&owned), letter(&external)), ('v', 'E'));
}

#[test]
fn transition_after_the_last_attempt_number_is_refused() {
    let stay = Stay { attempt: Attempt(u32::MAX), ..stay(true) };
    let waiting = State::Failed { stay, will_retry: true };
    let target = Target { status: JobStatus::Queued, attempt: Attempt(u32::MAX), will_retry: false, at: AT };

    let answer = waiting.next(Input::Changed { previous: JobStatus::Failed, target }, JobOrigin::Owned);

    assert_eq!(letter(&answer), 'a');
}

fn any_input() -> impl Strategy<Value = Input> {
    let status = prop::sample::select(JobStatus::ALL.to_vec());
    let target = (status.clone(), 0_u32..4, any::<bool>(), any::<i32>()).prop_map(
        |(status, attempt, will_retry, at)| Target {
            status,
            attempt: Attempt(attempt),
            will_retry,
            at: Timestamp::from_micros(i64::from(at)),
        },
    );
    (status, target, any::<bool>()).prop_map(|(previous, target, is_typed)| {
        if is_typed { Input::Typed(target) } else { Input::Changed { previous, target } }
    })
}

fn any_origin() -> impl Strategy<Value = JobOrigin> {
    prop::sample::select(vec![JobOrigin::Owned, JobOrigin::External])
}

proptest! {
    #[test]
    fn machine_any_inputs_never_leaves_an_end(inputs in prop::collection::vec(any_input(), 1..60), origin in any_origin()) {
        let mut state: Option<State> = None;

        for input in inputs {
            let Some(before) = state else {
                state = State::first(input, origin).ok();
                continue;
            };
            let Ok((after, step)) = before.next(input, origin) else { continue };
            match step {
                Step::Confirmed => {
                    prop_assert_eq!(after.status(), before.status());
                    prop_assert_eq!(after.attempt(), before.attempt());
                    prop_assert_eq!(after.will_retry(), before.will_retry());
                    prop_assert!(!before.is_confirmed() && after.is_confirmed());
                }
                Step::Entered => {
                    prop_assert!(!before.is_terminal());
                    if before.status().is_attempt_end() {
                        prop_assert!(before.will_retry());
                        prop_assert!(after.attempt() > before.attempt() || after.status() == JobStatus::Cancelled);
                    }
                    if origin == JobOrigin::Owned {
                        prop_assert!(before.is_confirmed() && !after.is_confirmed());
                    }
                }
            }
            prop_assert!(after.attempt() >= before.attempt());
            state = Some(after);
        }
    }

    #[test]
    fn state_written_to_a_view_is_read_back(input in any_input()) {
        let state = State::first(input, JobOrigin::External).expect("any status is taken");
        let mut view = crate::jobs::fixture::view("job", JobStatus::Running);

        state.write_to(&mut view);

        prop_assert_eq!(State::of_view(&view), state);
        prop_assert_eq!(view.is_terminal(), state.is_terminal());
    }
}

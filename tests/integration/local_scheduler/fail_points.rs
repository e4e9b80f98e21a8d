//! Shims that kill themselves at named points (feature `fail-points`).

use horizons::faults;
use horizons_actors::ports::scheduler::AttemptExit;

use super::bench::{Bench, end, error_code, find, processes_of, spec, submit, wait_for_exit};

const NOTE: &str = "echo start >> \"$NOTES/starts\"";

/// Runs one attempt with a shim that is killed at a point, then gives it back to a scheduler.
fn outcome_after_kill_at(point: &str) -> (String, String) {
    let bench = Bench::new().agent("a", NOTE).slots(0);
    submit(&bench.start(), spec("job", "a"));
    let folder = bench.attempt_folder();
    let mut shim =
        bench.shim_command(&folder).env(faults::VARIABLE, format!("{point}=kill")).spawn().unwrap();
    assert_eq!(wait_for_exit(&mut shim).code(), None);

    let bench = bench.slots(1);
    let scheduler = bench.start();
    let end = end(&scheduler, "job");

    assert!(processes_of(&folder).is_empty());
    assert_eq!(find(&scheduler, "job").end.as_ref(), Some(&end));
    assert_eq!(end.exit == AttemptExit::Completed, end.totals.is_some());
    (error_code(&end).to_owned(), bench.note("starts"))
}

#[test]
fn shim_killed_before_its_claim_leaves_the_attempt_to_another() {
    assert_eq!(outcome_after_kill_at("shim-before-claim"), ("completed".to_owned(), "start\n".to_owned()));
}

#[test]
fn shim_killed_between_claim_and_start_loses_the_attempt_unstarted() {
    assert_eq!(outcome_after_kill_at("shim-after-claim"), ("attempt_lost".to_owned(), String::new()));
}

#[test]
fn shim_killed_before_its_result_loses_the_attempt_started_once() {
    assert_eq!(
        outcome_after_kill_at("shim-after-agent-exit"),
        ("attempt_lost".to_owned(), "start\n".to_owned())
    );
}

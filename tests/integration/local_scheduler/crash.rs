//! Deaths of the scheduler, of shims and of everything between, by real SIGKILL.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use horizons::run_agent::{EXIT_LOCKED, EXIT_NOT_MINE, EXIT_RAN};
use horizons_actors::ports::scheduler::{AttemptExit, Scheduler};
use nix::sys::signal::Signal;
use serde_json::json;

use super::bench::{
    Bench, answer, boot_id, end, error_code, find, id, is_alive, kill, leave_claim_of, pid_in, processes_of,
    spec, submit, wait_for, wait_for_exit,
};

/// A pid above every limit that Linux has.
const IMPOSSIBLE_PID: i32 = 0x7fff_fff0;

const HOLD: &str = "echo start >> \"$NOTES/starts\"; while [ ! -e \"$NOTES/go\" ]; do sleep 0.02; done";

#[test]
fn restart_finds_running_and_queued_attempts_and_runs_none_twice() {
    let bench = Bench::new().agent("a", HOLD).slots(1);
    let scheduler = bench.start();
    submit(&scheduler, spec("1", "a"));
    submit(&scheduler, spec("2", "a"));
    bench.wait_for_note("starts");
    wait_for("the start to be written", || find(&scheduler, "1").started_at.is_some());

    drop(scheduler);
    let scheduler = bench.start();
    let running = find(&scheduler, "1");
    let queued = find(&scheduler, "2");
    fs::write(bench.notes().join("go"), "").unwrap();

    assert!(running.started_at.is_some() && running.end.is_none());
    assert!(queued.started_at.is_none() && queued.end.is_none());
    assert_eq!(end(&scheduler, "1").exit, AttemptExit::Completed);
    assert_eq!(end(&scheduler, "2").exit, AttemptExit::Completed);
    assert_eq!(bench.note("starts"), "start\nstart\n");
}

#[test]
fn restart_after_an_attempt_ended_alone_reports_its_end() {
    let bench = Bench::new().agent("a", HOLD);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");

    drop(scheduler);
    fs::write(bench.notes().join("go"), "").unwrap();
    wait_for("the result", || bench.attempt_folder().join("result.json").exists());
    let scheduler = bench.start();

    assert_eq!(find(&scheduler, "job").end.unwrap().exit, AttemptExit::Completed);
}

#[test]
fn shim_whose_parent_group_is_killed_runs_to_its_end() {
    let bench = Bench::new().agent("a", HOLD).slots(0);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    let folder = bench.attempt_folder();
    let mut parent = Command::new("/bin/sh")
        .args(["-c", "\"$0\" run-agent \"$1\" & wait"])
        .arg(&bench.config.shim_program)
        .arg(&folder)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    bench.wait_for_note("starts");

    nix::sys::signal::killpg(
        nix::unistd::Pid::from_raw(i32::try_from(parent.id()).unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    parent.wait().unwrap();
    fs::write(bench.notes().join("go"), "").unwrap();

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Completed);
}

#[test]
fn shim_that_is_killed_leaves_a_lost_attempt_and_no_orphan() {
    let script = "setsid sh -c 'exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&-; while :; do sleep 1; done' &
        setsid sleep 1000 &
        echo start >> \"$NOTES/starts\"; while :; do sleep 0.05; done";
    let bench = Bench::new().agent("a", script);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");
    let folder = bench.attempt_folder();
    wait_for("all processes", || processes_of(&folder).len() >= 4);
    wait_for("the start to be written", || find(&scheduler, "job").started_at.is_some());

    kill(pid_in(&folder, "claim.json", "shim"), Signal::SIGKILL);

    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
    assert_eq!(processes_of(&folder), Vec::<i32>::new());
    assert!(find(&scheduler, "job").started_at.is_some());
    submit(&scheduler, spec("job", "a"));
    submit(&scheduler, spec("marker", "a"));
    wait_for("the marker's start", || bench.note("starts").lines().count() >= 2);
    assert_eq!(bench.note("starts").lines().count(), 2);
    answer(scheduler.cancel(id("marker"))).unwrap();
    end(&scheduler, "marker");
}

#[test]
fn shim_that_is_killed_leaves_no_process_that_hides_every_mark_where_there_are_control_groups() {
    // Another session, no environment, nothing open, and a parent that is gone: only its control group shows it.
    let hide =
        "use POSIX; POSIX::setsid(); open(my $note, '>', $ARGV[0]); print $note \"$$\\n\"; close $note;
        POSIX::close($_) for 0..255; sleep 1 while 1";
    let script = format!("(env -i perl -e \"$HIDE\" \"$NOTES/hidden\" &) ; {HOLD}");
    let mut bench = Bench::new().agent("a", &script);
    bench.agent_mut("a").environment.insert("HIDE".to_owned(), hide.to_owned());
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");
    bench.wait_for_note("hidden");
    let hidden: i32 = bench.note("hidden").trim().parse().unwrap();
    let folder = bench.attempt_folder();
    let attempt: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("attempt.json")).unwrap()).unwrap();
    let group = attempt["launch"]["control_group"].as_str();

    kill(pid_in(&folder, "claim.json", "shim"), Signal::SIGKILL);
    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");

    match group {
        Some(group) => {
            assert!(!is_alive(hidden));
            assert!(!std::path::Path::new(group).exists());
        }
        None => {
            println!("no control group can be had here: the process lives on, as the documents say");
            kill(hidden, Signal::SIGKILL);
        }
    }
}

#[test]
fn lost_attempt_that_cannot_be_ended_says_why_and_holds_nobody_up() {
    let bench = Bench::new().agent("a", HOLD).agent("other", "true").slots(0);
    submit(&bench.start(), spec("job", "a"));
    let folder = bench.attempt_folder();
    leave_claim_of(&folder, IMPOSSIBLE_PID);
    // As a process would that cannot be killed; this one is spared, because it is the scheduler's own.
    let lock = fs::File::open(folder.join("lock")).unwrap();
    lock.try_lock().unwrap();

    let bench = bench.slots(1);
    let scheduler = bench.start();
    let trouble = || bench.config.troubles.all().remove(&id("job"));
    wait_for("the reason to be said", || trouble().is_some_and(|why| why.contains("holds its lock")));
    assert!(find(&scheduler, "job").end.is_none());
    lock.unlock().unwrap();

    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
    wait_for("the reason to be gone", || trouble().is_none());
    submit(&scheduler, spec("next", "other"));
    assert_eq!(end(&scheduler, "next").exit, AttemptExit::Completed);
}

#[test]
fn shim_that_is_killed_while_no_scheduler_lives_is_found_lost_after_restart() {
    let bench = Bench::new().agent("a", HOLD);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");
    let folder = bench.attempt_folder();
    drop(scheduler);

    let shim = pid_in(&folder, "claim.json", "shim");
    kill(shim, Signal::SIGKILL);
    wait_for("the shim's death", || !is_alive(shim));
    let lock_of_orphan = fs::File::open(folder.join("lock")).unwrap().try_lock();
    let scheduler = bench.start();

    assert!(matches!(lock_of_orphan, Err(fs::TryLockError::WouldBlock)));

    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
    assert!(processes_of(&folder).is_empty());
    assert_eq!(bench.note("starts"), "start\n");
}

#[test]
fn cancel_of_an_attempt_whose_shim_was_killed_reports_cancelled() {
    let bench = Bench::new().agent("a", HOLD);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");
    let folder = bench.attempt_folder();
    let shim = pid_in(&folder, "claim.json", "shim");

    // Stopped, the shim cannot answer the wish before it is killed.
    kill(shim, Signal::SIGSTOP);
    answer(scheduler.cancel(id("job"))).unwrap();
    kill(shim, Signal::SIGKILL);

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
    assert!(processes_of(&folder).is_empty());
}

#[test]
fn cancel_at_any_moment_ends_every_attempt_and_starts_none_twice() {
    let bench = Bench::new().agent("a", "echo \"$HORIZONS_JOB_ID\" >> \"$NOTES/starts\"; sleep 1000 & wait");
    let scheduler = bench.start();
    let jobs: Vec<String> = (0..24).map(|number| format!("job {number}")).collect();

    for (number, job) in jobs.iter().enumerate() {
        submit(&scheduler, spec(job, "a"));
        // From at once to well after the start.
        std::thread::park_timeout(std::time::Duration::from_millis(3 * number as u64));
        answer(scheduler.cancel(id(job))).unwrap();
    }

    for job in &jobs {
        assert_eq!(end(&scheduler, job).exit, AttemptExit::Cancelled);
    }
    let starts = bench.note("starts");
    let distinct: std::collections::BTreeSet<&str> = starts.lines().collect();
    assert_eq!(starts.lines().count(), distinct.len());
    for folder in fs::read_dir(&bench.config.attempts_folder).unwrap() {
        assert_eq!(processes_of(&folder.unwrap().path()), Vec::<i32>::new());
    }
}

#[test]
fn claim_without_a_start_is_lost_and_never_starts() {
    for pid in [IMPOSSIBLE_PID, i32::try_from(std::process::id()).unwrap()] {
        let mut bench = Bench::new().agent("a", HOLD).slots(0);
        submit(&bench.start(), spec("job", "a"));
        let folder = bench.attempt_folder();
        // The second pid is alive, but its process is not the one that claimed.
        leave_claim_of(&folder, pid);

        bench.config.slots = 1;
        let scheduler = bench.start();

        assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
        assert_eq!(find(&scheduler, "job").started_at, None);
        drop(scheduler);
        assert_eq!(wait_for_exit(&mut bench.shim(&folder)).code(), Some(i32::from(EXIT_NOT_MINE)));
        assert_eq!(bench.note("starts"), "");
    }
}

#[test]
fn claim_that_is_torn_is_lost_and_never_starts() {
    let bench = Bench::new().agent("a", HOLD).slots(0);
    submit(&bench.start(), spec("job", "a"));
    let folder = bench.attempt_folder();
    fs::write(folder.join("claim.json"), "{\"shim\":{\"pi").unwrap();

    let bench = bench.slots(1);
    let scheduler = bench.start();

    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
    assert_eq!(bench.note("starts"), "");
}

#[test]
fn recycled_pid_of_a_lost_attempt_is_not_killed() {
    let bench = Bench::new().agent("a", HOLD).slots(0);
    submit(&bench.start(), spec("job", "a"));
    let folder = bench.attempt_folder();
    let mut innocent =
        Command::new("sleep").arg("1000").process_group(0).stdin(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(innocent.id()).unwrap();
    leave_claim_of(&folder, pid);
    let agent = json!({
        "agent": {"pid": pid, "start_ticks": 1, "boot_id": boot_id()},
        "started_at": "2026-01-01T00:00:00.000000Z",
    });
    fs::write(folder.join("agent.json"), agent.to_string()).unwrap();

    let scheduler = bench.start();

    assert_eq!(error_code(&end(&scheduler, "job")), "attempt_lost");
    assert!(is_alive(pid));
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn shims_that_start_together_start_one_agent() {
    let bench = Bench::new().agent("a", HOLD).slots(0);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    let folder = bench.attempt_folder();

    let mut shims: Vec<_> = (0..8).map(|_| bench.shim(&folder)).collect();
    bench.wait_for_note("starts");
    wait_for("the others' exit", || {
        shims.iter_mut().map(|shim| shim.try_wait().unwrap()).filter(Option::is_none).count() == 1
    });
    fs::write(bench.notes().join("go"), "").unwrap();
    let mut codes: Vec<_> = shims.iter_mut().map(|shim| wait_for_exit(shim).code().unwrap()).collect();
    codes.sort_unstable();

    let (ran, others) = codes.split_first().unwrap();
    assert_eq!(*ran, i32::from(EXIT_RAN));
    assert!(
        others.iter().all(|code| [EXIT_LOCKED, EXIT_NOT_MINE].map(i32::from).contains(code)),
        "{others:?}"
    );
    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Completed);
    assert_eq!(bench.note("starts"), "start\n");
}

#[test]
fn shim_that_is_told_to_end_ends_its_agent_and_says_so() {
    let bench = Bench::new().agent("a", HOLD);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("starts");
    let folder = bench.attempt_folder();

    kill(pid_in(&folder, "claim.json", "shim"), Signal::SIGTERM);

    assert_eq!(error_code(&end(&scheduler, "job")), "signal");
    assert!(processes_of(&folder).is_empty());
}

#[test]
fn folders_that_a_crash_left_half_made_are_removed_at_the_next_start() {
    let bench = Bench::new().agent("a", "true");
    drop(bench.start());
    for name in [".new-job-1", ".trash-job-1"] {
        fs::create_dir(bench.config.attempts_folder.join(name)).unwrap();
    }

    let scheduler = bench.start();

    assert_eq!(fs::read_dir(&bench.config.attempts_folder).unwrap().count(), 0);
    assert_eq!(answer(scheduler.find(id("job"))).unwrap(), None);
}

#[test]
fn samples_with_a_torn_line_are_read_without_it() {
    let bench = Bench::new().agent("a", "true");
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    end(&scheduler, "job");
    let path = bench.attempt_folder().join("samples.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    drop(scheduler);

    fs::write(&path, format!("{whole}{{\"index\":1,\"taken")).unwrap();
    let scheduler = bench.start();

    let samples = answer(scheduler.samples(id("job"), 0, 10)).unwrap();
    assert_eq!(samples.len(), whole.lines().count());
}

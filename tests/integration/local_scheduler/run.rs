//! Attempts that run to an end: outcome, limits, measurement, cancel, slots.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use horizons::scheduler::local::Overflow;
use horizons_actors::parameters::ParameterValue;
use horizons_actors::ports::scheduler::{AttemptExit, Scheduler};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::bench::{Bench, answer, end, error_code, find, id, pid_in, processes_of, spec, submit, wait_for};

#[test]
fn attempt_that_succeeds_reports_times_totals_and_samples() {
    let bench = Bench::new().agent("a", "echo \"got $1\"");
    let scheduler = bench.start();

    let accepted = submit(&scheduler, spec("job", "a"));
    let end = end(&scheduler, "job");

    let report = find(&scheduler, "job");
    assert!(accepted.end.is_none());
    assert_eq!(end.exit, AttemptExit::Completed);
    assert_eq!(report.scheduler_job_id, accepted.scheduler_job_id);
    let started_at = report.started_at.unwrap();
    assert!(report.queued_at <= started_at && started_at <= end.ended_at);
    let totals = end.totals.unwrap();
    assert!(totals.execution_time_seconds > 0.0 && totals.memory_usage_mb > 0.0 && totals.io_operations > 0);
    let samples = answer(scheduler.samples(id("job"), 0, 100)).unwrap();
    assert!(!samples.is_empty());
    assert_eq!(report.samples, u64::try_from(samples.len()).unwrap());
    let output = std::fs::read_to_string(bench.attempt_folder().join("stdout")).unwrap();
    assert_eq!(output, "got dataset 1\n");
}

#[test]
fn attempt_that_fails_reports_exit_code_or_signal() {
    let bench = Bench::new().agent("code", "exit 7").agent("signal", "kill -SEGV $$");
    let scheduler = bench.start();

    submit(&scheduler, spec("1", "code"));
    submit(&scheduler, spec("2", "signal"));

    let by_code = end(&scheduler, "1");
    let by_signal = end(&scheduler, "2");
    let failed = |code: &str, message: &str| AttemptExit::Failed {
        error_code: code.to_owned(),
        error_message: message.to_owned(),
    };
    assert_eq!(by_code.exit, failed("exit_code", "agent ended with exit code 7"));
    assert_eq!(by_signal.exit, failed("signal", "agent was ended by SIGSEGV"));
}

#[test]
fn attempt_whose_agent_ends_by_any_signal_says_which() {
    // The first and last of each kind; every number is tried beside the shim's code.
    let signals = [(1, "SIGHUP"), (15, "SIGTERM"), (31, "SIGSYS"), (34, "SIGRTMIN"), (64, "SIGRTMIN+30")];
    let mut bench = Bench::new();
    for (number, _) in signals {
        bench = bench.agent(&format!("by-{number}"), &format!("kill -{number} $$"));
    }
    let scheduler = bench.start();

    for (number, _) in signals {
        submit(&scheduler, spec(&number.to_string(), &format!("by-{number}")));
    }

    for (number, name) in signals {
        let AttemptExit::Failed { error_code, error_message } = end(&scheduler, &number.to_string()).exit
        else {
            panic!("signal {number} did not fail the attempt");
        };
        assert_eq!((error_code.as_str(), error_message), ("signal", format!("agent was ended by {name}")));
    }
}

#[test]
fn attempt_whose_orphan_ends_by_a_real_time_signal_goes_on_to_its_end() {
    // The inner shell's parent ends at once, so that the shim is the one to wait for it.
    let script = "(sh -c 'echo $$ > \"$NOTES/orphan\"; sleep 0.1; kill -40 $$' &)
        while [ ! -s \"$NOTES/orphan\" ]; do sleep 0.02; done
        while [ -e /proc/$(cat \"$NOTES/orphan\") ]; do sleep 0.02; done
        exit 5";
    let bench = Bench::new().agent("a", script);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    let exit = end(&scheduler, "job").exit;
    assert!(
        matches!(&exit, AttemptExit::Failed { error_message, .. } if error_message == "agent ended with exit code 5"),
        "{exit:?}"
    );
}

#[test]
fn agent_whose_program_vanished_fails_to_start() {
    let mut bench = Bench::new().agent("a", "true").slots(0);
    let program = bench.folder.path().join("program");
    std::fs::copy("/bin/true", &program).unwrap();
    bench.agent_mut("a").program = program.clone();
    submit(&bench.start(), spec("job", "a"));
    std::fs::remove_file(&program).unwrap();

    bench.config.slots = 1;
    let scheduler = bench.start();

    assert_eq!(error_code(&end(&scheduler, "job")), "start_failed");
    assert_eq!(find(&scheduler, "job").started_at, None);
}

#[test]
fn agent_over_its_time_limit_is_killed_though_it_ignores_sigterm() {
    let mut bench = Bench::new().agent("a", "trap '' TERM; while :; do sleep 0.05; done");
    bench.agent_mut("a").time_limit = Duration::from_millis(200);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "time_limit");
    assert!(processes_of(&bench.attempt_folder()).is_empty());
}

#[test]
fn agent_whose_children_exceed_the_memory_limit_is_ended() {
    // `tail` keeps all of a line that never ends.
    let mut bench =
        Bench::new().agent("a", "(head -c 400000000 /dev/zero; sleep 60) | tail -n 1 >/dev/null & wait");
    bench.agent_mut("a").memory_limit_bytes = Some(60_000_000);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    let end = end(&scheduler, "job");
    assert_eq!(error_code(&end), "memory_limit");
    assert!(end.totals.unwrap().memory_usage_mb > 50.0);
    assert!(processes_of(&bench.attempt_folder()).is_empty());
}

#[test]
fn agent_whose_children_share_its_memory_is_charged_for_it_once() {
    // Five processes with 120 MB each resident, which are the same 120 MB.
    let script = "exec perl -e 'my $x = \"x\" x 120_000_000;
        for (1..4) { if (!fork) { sleep 3; exit } } 1 while wait > 0'";
    let mut bench = Bench::new().agent("a", script);
    bench.agent_mut("a").memory_limit_bytes = Some(400_000_000);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    let end = end(&scheduler, "job");
    assert_eq!(end.exit, AttemptExit::Completed);
    let peak_mb = end.totals.unwrap().memory_usage_mb;
    assert!((100.0..380.0).contains(&peak_mb), "{peak_mb}");
}

#[test]
fn agent_whose_children_stop_sharing_its_memory_is_ended() {
    // Each child writes to every page of what it had in common with the others.
    let script = "exec perl -e 'my $x = \"x\" x 120_000_000;
        for (1..4) { if (!fork) { $x =~ tr/x/y/; sleep 60; exit } } 1 while wait > 0'";
    let mut bench = Bench::new().agent("a", script);
    bench.agent_mut("a").memory_limit_bytes = Some(400_000_000);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "memory_limit");
}

/// Writes to standard output without end, and notes that it goes on.
const FLOOD: &str = "while :; do head -c 65536 /dev/zero; echo on >> \"$NOTES/on\"; done";

#[test]
fn agent_whose_output_exceeds_its_limit_is_ended_as_that() {
    let mut bench = Bench::new().agent("a", FLOOD);
    bench.agent_mut("a").output_limit_bytes = Some(1 << 20);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "output_limit");
    assert!(processes_of(&bench.attempt_folder()).is_empty());
}

#[test]
fn agent_whose_output_is_rotated_goes_on_within_its_limit() {
    let mut bench =
        Bench::new().agent("a", "trap 'exit 0' TERM; while :; do head -c 4096 /dev/zero; sleep 0.01; done");
    bench.agent_mut("a").output_limit_bytes = Some(128 << 10);
    bench.agent_mut("a").output_overflow = Overflow::Rotate;
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));
    wait_for("the attempt's folder", || bench.config.attempts_folder.read_dir().unwrap().count() == 1);
    let kept = bench.attempt_folder().join("stdout.1");
    let written = || std::fs::metadata(&kept).and_then(|metadata| metadata.modified()).ok();
    wait_for("output to be cut", || written().is_some());
    let first = written();
    wait_for("output to be cut again", || written() != first);
    let total: u64 = ["stdout", "stdout.1", "stderr"]
        .iter()
        .map(|name| std::fs::metadata(bench.attempt_folder().join(name)).unwrap().len())
        .sum();

    assert!(total <= 128 << 10, "{total}");
    assert!(find(&scheduler, "job").end.is_none());
    answer(scheduler.cancel(id("job"))).unwrap();
    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
}

#[test]
fn agent_whose_work_folder_exceeds_its_limit_is_ended_as_that() {
    let script = "mkdir -p deep/er; while :; do head -c 65536 /dev/zero >> deep/er/file; done";
    let mut bench = Bench::new().agent("a", script);
    bench.agent_mut("a").work_limit_bytes = Some(1 << 20);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "work_limit");
    let space = std::fs::read_to_string(bench.attempt_folder().join("space.json")).unwrap();
    let space: serde_json::Value = serde_json::from_str(&space).unwrap();
    assert!(space["work_bytes"].as_u64().unwrap() > 1 << 20, "{space}");
}

#[test]
fn agent_over_its_address_space_is_refused_memory_by_the_kernel() {
    let mut bench = Bench::new().agent("a", "head -c 400000000 /dev/zero | tail -n 1 >/dev/null");
    bench.agent_mut("a").address_space_limit_bytes = Some(128 * 1024 * 1024);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "exit_code");
}

#[test]
fn cancel_of_a_running_attempt_ends_detached_grandchildren_too() {
    let script = "trap 'exit 0' TERM
        (sleep 1000 & sleep 1000) &
        setsid sh -c 'exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&-; trap \"\" TERM; while :; do sleep 1; done' &
        setsid setsid sleep 1000 &
        echo up > \"$NOTES/up\"
        while :; do sleep 0.05; done";
    let bench = Bench::new().agent("a", script);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("up");
    wait_for("all processes", || processes_of(&bench.attempt_folder()).len() >= 6);

    answer(scheduler.cancel(id("job"))).unwrap();

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
    assert_eq!(processes_of(&bench.attempt_folder()), Vec::<i32>::new());
    assert!(answer(scheduler.cancel(id("job"))).is_ok());
}

#[test]
fn cancel_of_an_agent_that_obeys_sigterm_does_not_wait_for_the_grace() {
    let mut bench = Bench::new().agent("a", "echo up > \"$NOTES/up\"; exec sleep 1000");
    // Longer than any test waits: only SIGTERM itself can end the attempt in time.
    bench.config.kill_grace = Duration::from_secs(3_600);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("up");

    answer(scheduler.cancel(id("job"))).unwrap();

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
}

#[test]
fn agent_that_leaves_children_behind_completes_and_they_are_ended() {
    let bench = Bench::new().agent("a", "setsid sleep 1000 & sleep 1000 & exit 0");
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Completed);
    assert!(processes_of(&bench.attempt_folder()).is_empty());
}

#[test]
fn samples_of_a_busy_agent_add_up_to_its_totals() {
    // The work is done by children that end, so that what they used must be kept.
    let script = "i=0; while [ $i -lt 6 ]; do dd if=/dev/zero of=/dev/null bs=4k count=40000 2>/dev/null; i=$((i+1)); done";
    let bench = Bench::new().agent("a", script);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    let totals = end(&scheduler, "job").totals.unwrap();
    let samples = answer(scheduler.samples(id("job"), 0, 10_000)).unwrap();
    let calls: u64 = samples.iter().map(|sample| sample.io_operations).sum();
    assert_eq!(calls, totals.io_operations);
    assert!(calls >= 6 * 2 * 40_000, "{calls}");
    assert!(totals.cpu_usage_percent > 5.0, "{totals:?}");
    assert!(samples.iter().any(|sample| sample.memory_usage_mb > 0.1));
    let indexes: Vec<u64> = samples.iter().map(|sample| sample.index).collect();
    assert_eq!(indexes, (0..u64::try_from(samples.len()).unwrap()).collect::<Vec<_>>());
    assert!(samples.is_sorted_by(|a, b| a.execution_time_seconds <= b.execution_time_seconds));
}

#[test]
fn samples_of_a_running_agent_can_be_read_before_it_ends() {
    let bench = Bench::new().agent("a", "while :; do sleep 0.02; done");
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));

    wait_for("samples", || find(&scheduler, "job").samples >= 3);

    assert_eq!(answer(scheduler.samples(id("job"), 1, 2)).unwrap().len(), 2);
    answer(scheduler.cancel(id("job"))).unwrap();
    end(&scheduler, "job");
}

#[test]
fn shim_and_agent_keep_no_descriptor_of_whoever_started_the_server() {
    let bench = Bench::new().agent("a", "echo up > \"$NOTES/up\"; while :; do sleep 0.05; done");
    // As under `flock FILE horizons serve`: an open file that is not closed by exec.
    let path = bench.folder.path().join("outer.lock");
    let outer = std::fs::File::create(&path).unwrap();
    fcntl(&outer, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));
    bench.wait_for_note("up");

    let shim = pid_in(&bench.attempt_folder(), "claim.json", "shim");
    let mut processes = processes_of(&bench.attempt_folder());
    assert!(!processes.is_empty());
    processes.push(shim);
    for pid in processes {
        // One of the agent's children may have ended meanwhile.
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let open: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
        assert!(!open.contains(&path), "{pid}: {open:?}");
    }
    answer(scheduler.cancel(id("job"))).unwrap();
    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
}

#[test]
fn agent_sees_declared_environment_only_and_parameters_as_a_file() {
    let mut bench = Bench::new()
        .agent("a", "env > \"$NOTES/env\"; cat \"$2\" > \"$NOTES/parameters\"; pwd > \"$NOTES/pwd\"");
    bench.config.shim_environment = BTreeMap::from([("SECRET".to_owned(), "hush".to_owned())]);
    bench.agent_mut("a").arguments.push("{parameters_file}".to_owned());
    let scheduler = bench.start();
    let mut spec = spec("job", "a");
    let levels = ParameterValue::from_json(r#"{"levels": [1.10, 20200219123456789012]}"#).unwrap();
    spec.parameters.insert("depth", levels);
    spec.parameters.insert("name", "1e5".into());

    submit(&scheduler, spec);

    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Completed);
    let environment = bench.note("env");
    let mut names: Vec<&str> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !["PATH", "HOME", "LANG", "PWD", "_", "SHLVL", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["HORIZONS_ATTEMPT", "HORIZONS_ATTEMPT_KEY", "HORIZONS_JOB_ID", "NOTES"]);
    assert_eq!(
        bench.note("parameters"),
        r#"{"depth":{"levels": [1.10, 20200219123456789012]},"name":"1e5"}"#
    );
    assert!(bench.note("pwd").trim_end().ends_with("/work"));
}

/// Notes each run's data set, and whether another ran at the same time.
const EXCLUSIVE: &str = "mkdir \"$NOTES/busy\" || echo overlap >> \"$NOTES/overlaps\"
    echo \"$HORIZONS_JOB_ID\" >> \"$NOTES/order\"; sleep 0.1; rmdir \"$NOTES/busy\"";

#[test]
fn slots_that_are_taken_keep_later_attempts_queued_in_order() {
    let bench = Bench::new().agent("a", EXCLUSIVE).slots(1);
    let scheduler = bench.start();

    for job in ["3", "1", "2", "0"] {
        submit(&scheduler, spec(job, "a"));
    }
    end(&scheduler, "0");

    assert_eq!(bench.note("order"), "3\n1\n2\n0\n");
    assert_eq!(bench.note("overlaps"), "");
}

#[test]
fn slots_of_one_agent_that_are_taken_do_not_hold_up_another() {
    let hold =
        "while [ ! -e \"$NOTES/go\" ]; do sleep 0.02; done; echo \"$HORIZONS_JOB_ID\" >> \"$NOTES/order\"";
    let mut bench = Bench::new().agent("a", hold).agent("b", "true").slots(3);
    bench.agent_mut("a").max_slots = Some(1);
    let scheduler = bench.start();

    submit(&scheduler, spec("1", "a"));
    submit(&scheduler, spec("2", "a"));
    submit(&scheduler, spec("3", "b"));

    assert_eq!(end(&scheduler, "3").exit, AttemptExit::Completed);
    assert_eq!(find(&scheduler, "2").started_at, None);
    std::fs::write(bench.notes().join("go"), "").unwrap();
    end(&scheduler, "2");
    assert_eq!(bench.note("order"), "1\n2\n");
}

#[test]
fn changed_returns_on_a_start_long_before_the_poll_interval() {
    let mut bench = Bench::new().agent("a", "true");
    bench.config.poll_interval = Duration::from_secs(3600);
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));
    let began = Instant::now();
    answer(scheduler.changed()).unwrap();

    assert!(began.elapsed() < bench.config.poll_interval);
    assert!(bench.attempt_folder().join("claim.json").exists());
}

//! What is accepted and refused, and calls that come twice, late or in the wrong order.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use horizons::scheduler::local::{LocalScheduler, LocalSchedulerError};
use horizons_actors::clock::SystemClock;
use horizons_actors::event::TaccSystem;
use horizons_actors::ids::{AgentName, DatasetId};
use horizons_actors::parameters::ParameterValue;
use horizons_actors::ports::scheduler::{AttemptExit, AttemptSpec, Scheduler, SchedulerError};

use super::bench::{Bench, answer, end, error_code, find, id, spec, submit, wait_for_exit};

#[test]
fn request_that_cannot_run_is_refused_with_its_field_and_leaves_nothing() {
    let mut bench = Bench::new().agent("a", "true").agent("missing", "true").agent("plain", "true");
    bench.agent_mut("a").arguments = vec!["{dataset_id}".to_owned(), "{parameter:depth}".to_owned()];
    bench.agent_mut("missing").program = PathBuf::from("/nonexistent/program");
    bench.agent_mut("plain").program = PathBuf::from("/etc/passwd");
    let scheduler = bench.start();
    let good = || {
        let mut spec = spec("job", "a");
        spec.parameters.insert("depth", "3".into());
        spec
    };
    let json = |text: &str| ParameterValue::from_json(text).unwrap();
    let with = |change: &dyn Fn(&mut AttemptSpec)| {
        let mut spec = good();
        change(&mut spec);
        spec
    };

    let cases = [
        ("agent", with(&|spec| spec.agent = AgentName::parse("nobody").unwrap())),
        ("agent", with(&|spec| spec.agent = AgentName::parse("missing").unwrap())),
        ("agent", with(&|spec| spec.agent = AgentName::parse("plain").unwrap())),
        ("tacc_system", with(&|spec| spec.tacc_system = TaccSystem::Frontera)),
        ("dataset_id", with(&|spec| spec.dataset_id = DatasetId::parse("--exec=x").unwrap())),
        ("parameters.depth", with(&|spec| drop(spec.parameters.remove("depth")))),
        ("parameters.depth", with(&|spec| drop(spec.parameters.insert("depth", "-1".into())))),
        ("parameters.depth", with(&|spec| drop(spec.parameters.insert("depth", json("-1"))))),
        ("parameters.depth", with(&|spec| drop(spec.parameters.insert("depth", "a\u{0}b".into())))),
        ("parameters.depth", with(&|spec| drop(spec.parameters.insert("depth", json("[]"))))),
    ];
    assert!(scheduler.check(&good()).is_ok());
    for (wanted, spec) in cases {
        for result in [scheduler.check(&spec), answer(scheduler.submit(spec.clone())).map(|_| ())] {
            match result {
                Err(SchedulerError::Refused { field, .. }) => assert_eq!(field, wanted),
                other => panic!("wanted a refusal of {wanted}, got {other:?}"),
            }
        }
    }
    assert_eq!(fs::read_dir(&bench.config.attempts_folder).unwrap().count(), 0);
}

#[test]
fn configuration_that_cannot_work_is_refused_with_every_key() {
    let mut bench = Bench::new().agent("a", "true");
    bench.agent_mut("a").arguments = vec!["{oops}".to_owned()];
    bench.config.shim_program = PathBuf::from("horizons");

    let started = LocalScheduler::start(bench.config.clone(), std::sync::Arc::new(SystemClock));

    let Err(LocalSchedulerError::Config(problems)) = started else { panic!("wanted a refusal") };
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["shim_program", "agents.a.arguments[0]"]);
}

#[test]
fn submit_that_is_repeated_answers_the_same_and_starts_one_agent() {
    let bench = Bench::new().agent("a", "echo start >> \"$NOTES/starts\"");
    let scheduler = bench.start();

    let replies: Vec<_> = (0..20).map(|_| scheduler.submit(spec("job", "a"))).collect();
    let reports: Vec<_> = replies.into_iter().map(|reply| answer(reply).unwrap()).collect();
    end(&scheduler, "job");
    let after = submit(&scheduler, spec("job", "a"));

    let names: BTreeSet<_> =
        reports.iter().map(|report| (report.scheduler_job_id.clone(), report.queued_at)).collect();
    assert_eq!(names.len(), 1);
    assert_eq!(after.end.unwrap().exit, AttemptExit::Completed);
    assert_eq!(bench.note("starts"), "start\n");
}

#[test]
fn job_ids_that_are_hostile_run_inside_the_folder_and_apart() {
    let bench = Bench::new().agent("a", "echo \"$HORIZONS_JOB_ID\" >> \"$NOTES/jobs\"");
    let scheduler = bench.start();
    let long = "é".repeat(127);
    let jobs = [
        "../../escape",
        "/etc/passwd",
        "..",
        ".",
        "a/b",
        "a_b",
        "A_b",
        "-rf",
        "a b;$(id)",
        "\u{202e}x",
        &long,
    ];

    for job in jobs {
        submit(&scheduler, spec(job, "a"));
    }

    for job in jobs {
        assert_eq!(end(&scheduler, job).exit, AttemptExit::Completed, "{job}");
    }
    let noted = bench.note("jobs");
    assert_eq!(noted.lines().collect::<BTreeSet<_>>(), jobs.into_iter().collect::<BTreeSet<_>>());
    assert_eq!(fs::read_dir(&bench.config.attempts_folder).unwrap().count(), jobs.len());
    let beside: BTreeSet<_> =
        fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["attempts".into(), "notes".into()].into_iter().collect());
}

#[test]
fn cancel_of_a_queued_attempt_leaves_a_tombstone_that_every_shim_obeys() {
    let mut bench = Bench::new().agent("a", "echo start >> \"$NOTES/starts\"").slots(0);
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));

    answer(scheduler.cancel(id("job"))).unwrap();
    assert_eq!(end(&scheduler, "job").exit, AttemptExit::Cancelled);
    drop(scheduler);
    let by_hand = wait_for_exit(&mut bench.shim(&bench.attempt_folder()));
    bench.config.slots = 4;
    let scheduler = bench.start();
    submit(&scheduler, spec("marker", "a"));
    end(&scheduler, "marker");

    assert_eq!(by_hand.code(), Some(i32::from(horizons::run_agent::EXIT_NOT_MINE)));
    assert_eq!(find(&scheduler, "job").end.unwrap().exit, AttemptExit::Cancelled);
    assert_eq!(bench.note("starts"), "start\n");
}

#[test]
fn cancel_that_comes_before_its_submit_keeps_the_attempt_from_starting() {
    let bench = Bench::new().agent("a", "echo start >> \"$NOTES/starts\"");
    let scheduler = bench.start();

    answer(scheduler.cancel(id("job"))).unwrap();
    let report = submit(&scheduler, spec("job", "a"));
    submit(&scheduler, spec("marker", "a"));
    end(&scheduler, "marker");

    assert_eq!(report.end.unwrap().exit, AttemptExit::Cancelled);
    assert_eq!(bench.note("starts"), "start\n");
}

#[test]
fn clean_waits_for_the_end_and_may_be_repeated() {
    let bench = Bench::new().agent("a", "while [ ! -e \"$NOTES/go\" ]; do sleep 0.02; done");
    let scheduler = bench.start();
    submit(&scheduler, spec("job", "a"));

    let early = answer(scheduler.clean(id("job"))).unwrap_err();
    fs::write(bench.notes().join("go"), "").unwrap();
    end(&scheduler, "job");
    // The shim gives its lock back a moment after its result.
    super::bench::wait_for("clean", || answer(scheduler.clean(id("job"))).is_ok());

    assert!(early.is_transient());
    assert!(answer(scheduler.clean(id("job"))).is_ok());
    assert!(answer(scheduler.clean(id("never"))).is_ok());
    assert_eq!(answer(scheduler.find(id("job"))).unwrap(), None);
    assert_eq!(fs::read_dir(&bench.config.attempts_folder).unwrap().count(), 0);
}

#[test]
fn shim_program_that_never_claims_fails_the_attempt_after_some_tries() {
    let mut bench = Bench::new().agent("a", "true");
    bench.config.shim_program = PathBuf::from("/bin/false");
    let scheduler = bench.start();

    submit(&scheduler, spec("job", "a"));

    assert_eq!(error_code(&end(&scheduler, "job")), "start_failed");
}

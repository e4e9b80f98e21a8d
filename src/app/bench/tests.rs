//! The benchmark's figures, its report, and that a wrong run is a failure.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::*;
use crate::config::{Source, load as load_config};

fn config() -> Config {
    load_config(&Source::example(), &BTreeMap::new(), &crate::app::check_agent).unwrap().config
}

fn options(records: u64, form: Form) -> BenchOptions {
    BenchOptions {
        records: NonZeroU64::new(records).unwrap(),
        payload_bytes: 400,
        rounds: 1,
        folder: None,
        form,
    }
}

fn measured(records: u64) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes, Form::Json, Colour::Off);
    actix::System::new()
        .block_on(measure(config(), &options(records, Form::Json), folder.path(), &mut output))
        .unwrap();
    String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn bench_small_log_prints_every_figure_above_zero() {
    let lines = measured(3_000);

    let main = lines.iter().find(|line| line["figure"] == "one_group_sqlite").unwrap();
    assert_eq!((main["limit"].as_str(), main["unit"].as_str()), (Some("bare_insert"), Some("records/s")));
    for line in &lines {
        let is_wait = line["figure"] == "profile_writer_waits";
        assert!(line["value"].as_f64().unwrap() > 0.0 || is_wait, "{line}");
        assert!(line["limit_value"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert_eq!(
        lines.iter().filter(|line| line["figure"].as_str().unwrap().starts_with("profile_")).count(),
        8
    );
}

#[test]
fn verify_fewer_entries_than_records_fails() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();

    let failure = actix::System::new()
        .block_on(async {
            fill(&config, folder.path(), 10, 100).await?;
            let store = open(&config, folder.path())?;
            group::run(&config, &store, 10, None).await?;
            verify(&store, 11).await
        })
        .unwrap_err();

    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.message.contains("wanted 11 events, got 10 entries"), "{failure}");
}

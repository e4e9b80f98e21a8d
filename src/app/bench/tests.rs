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
        kafka: None,
        latency: None,
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
    let figures: Vec<&str> = lines.iter().map(|line| line["figure"].as_str().unwrap()).collect();
    let (threads, parts): (Vec<&str>, Vec<&str>) = figures
        .into_iter()
        .filter(|figure| figure.starts_with("profile_"))
        .partition(|figure| figure.starts_with("profile_thread_"));
    assert_eq!(parts.len(), 8, "{parts:?}");
    assert!(threads.contains(&"profile_thread_store-writer"), "{threads:?}");
}

#[test]
fn verify_fewer_entries_than_records_fails() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();

    let failure = actix::System::new()
        .block_on(async {
            fill(&config, folder.path(), 10, 100).await?;
            let store = open(&config, folder.path())?;
            let log = log::open(&config, store.log_id(), Arc::clone(&store) as _)?;
            let subject = Subject { log, log_id: store.log_id(), store: Arc::clone(&store) as _ };
            group::run(&config, subject, 10, None).await?;
            let queries: Arc<dyn QueryStore> = Arc::clone(&store) as _;
            verify(&queries, 11).await
        })
        .unwrap_err();

    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.message.contains("wanted 11 events, got 10 entries"), "{failure}");
}

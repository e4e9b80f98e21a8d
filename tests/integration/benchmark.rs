//! The benchmark on real services, small: that every figure is there, and that nothing is left behind.

use std::process::Command;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::services::kafka::Kafka;
use crate::services::postgres;

/// Runs the benchmark on Kafka and PostgreSQL; gives its figures.
fn bench(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_horizons"))
        .args(["bench", "--json", "--kafka", Kafka::shared().bootstrap()])
        .args(["--postgres", &postgres::shared().url()])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that figures are there with a value and a limit above zero.
fn check_figures(figures: &[Value], wanted: &[(&str, &str)]) {
    for (figure, limit) in wanted {
        let found = figures.iter().find(|line| line["figure"] == *figure && line["limit"] == *limit);
        assert!(found.is_some(), "no `{figure}` of `{limit}` in {figures:?}");
        let found = found.unwrap();
        assert!(found["value"].as_f64().unwrap() > 0.0, "{found}");
        assert!(found["limit_value"].as_f64().unwrap() > 0.0, "{found}");
    }
}

/// Lists the topics of the shared cluster that a benchmark made.
fn topics_of_benchmarks() -> Vec<String> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", Kafka::shared().direct()).create().unwrap();
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    names.filter(|name| name.starts_with("bench-")).collect()
}

#[test]
fn bench_on_services_gives_every_figure_and_leaves_nothing() {
    let throughput = bench(&["--records", "2000", "--rounds", "1"]);
    let latency = bench(&["--latency", "--rate", "50", "--seconds", "1"]);

    check_figures(
        &throughput,
        &[
            ("one_group_kafka_sqlite", "bare_consume"),
            ("one_group_postgres", "bare_copy"),
            ("one_group_postgres", "bare_consume"),
            ("profile_commit_sqlite", "wall"),
            ("profile_commit_postgres", "wall"),
        ],
    );
    check_figures(
        &latency,
        &[
            ("latency_p99_kafka_sqlite", "goal"),
            ("latency_p99_kafka_sqlite", "kafka_and_commit_p99"),
            ("latency_p99_kafka_postgres", "goal"),
            ("latency_p99_half_kafka_postgres", "p99_at_rate"),
        ],
    );
    assert_eq!(topics_of_benchmarks(), Vec::<String>::new());
    let schemas = postgres::shared().sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bench%'");
    assert_eq!(schemas, "");
}

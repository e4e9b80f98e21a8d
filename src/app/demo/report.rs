//! What the demonstration prints at its end.

use std::time::Duration;

use serde_json::json;

use super::check::Facts;
use super::latency::Latencies;
use crate::cli::{Form, Output};
use crate::exit::Failure;

/// Prints the report.
pub(super) fn print(
    output: &mut Output<'_>,
    facts: &Facts,
    checks: &[(String, bool)],
    latencies: &Latencies,
    elapsed: Duration,
) -> Result<(), Failure> {
    match output.form() {
        Form::Text => print_text(output, facts, checks, latencies, elapsed),
        Form::Json => print_json(output, facts, checks, latencies, elapsed),
    }
}

fn print_text(
    output: &mut Output<'_>,
    facts: &Facts,
    checks: &[(String, bool)],
    Latencies { all, by_topic, cold }: &Latencies,
    elapsed: Duration,
) -> Result<(), Failure> {
    output.line("Jobs")?;
    for (status, count) in facts.by_status() {
        output.line(&format!("  {:<12} {count:>8}", status.name()))?;
    }
    output.line("Events")?;
    for (topic, count) in &facts.events {
        output.line(&format!("  {:<16} {count:>4}", topic.name()))?;
    }
    output.line("Dead letters")?;
    for letter in &facts.dead_letters {
        output.line(&format!(
            "  {} at offset {}: {} ({})",
            letter.lane, letter.record.offset, letter.reason, letter.detail
        ))?;
    }
    output.line("Parked jobs")?;
    for key in &facts.parked {
        output.line(&format!(
            "  {} waits in {} with {} records, behind offset {}",
            String::from_utf8_lossy(&key.key),
            key.lane,
            key.records,
            key.head
        ))?;
    }
    let entries: u64 = facts.audit.iter().map(|log| log.entries_total).sum();
    let intact = facts.audit.iter().filter(|log| log.is_intact).count();
    output.line("Audit trail")?;
    output.line(&format!("  {entries} entries, {intact} of {} logs verify", facts.audit.len()))?;
    output
        .line("Throughput and latency (from the commit that publishes to the commit of the last effect)")?;
    let events: u64 = facts.events.values().sum();
    output.line(&format!("  {events} events in {:.1} s", elapsed.as_secs_f64()))?;
    output.line(&format!("  all: p50 {:.2} ms, p99 {:.2} ms", all.p50_ms, all.p99_ms))?;
    for (topic, summary) in by_topic {
        output.line(&format!(
            "  {}: p50 {:.2} ms, p99 {:.2} ms",
            topic.name(),
            summary.p50_ms,
            summary.p99_ms
        ))?;
    }
    output.line(&format!(
        "  cold start, not among these (published before the first of its partition was through): p50 {:.2} ms, p99 {:.2} ms",
        cold.p50_ms, cold.p99_ms
    ))?;
    output.line("Checks")?;
    for (check, holds) in checks {
        output.line(&format!("  {} {check}", if *holds { "ok    " } else { "FAILED" }))?;
    }
    let adds_up = checks.iter().all(|(_, holds)| *holds);
    output.line(if adds_up { "Everything adds up." } else { "It does not add up." })
}

fn print_json(
    output: &mut Output<'_>,
    facts: &Facts,
    checks: &[(String, bool)],
    Latencies { all, by_topic, cold }: &Latencies,
    elapsed: Duration,
) -> Result<(), Failure> {
    for (status, count) in facts.by_status() {
        output.json(&json!({ "figure": "jobs", "status": status.name(), "value": count, "unit": "jobs" }))?;
    }
    for (topic, count) in &facts.events {
        output
            .json(&json!({ "figure": "events", "topic": topic.name(), "value": count, "unit": "events" }))?;
    }
    for letter in &facts.dead_letters {
        output.json(&json!({
            "figure": "dead_letter", "group": letter.lane.group, "topic": letter.lane.topic_partition.topic,
            "partition": letter.lane.topic_partition.partition, "offset": letter.record.offset,
            "reason": letter.reason,
        }))?;
    }
    for key in &facts.parked {
        output.json(&json!({
            "figure": "parked_job", "job_id": String::from_utf8_lossy(&key.key), "group": key.lane.group,
            "partition": key.lane.topic_partition.partition, "records": key.records,
        }))?;
    }
    let entries: u64 = facts.audit.iter().map(|log| log.entries_total).sum();
    let is_intact = facts.audit.iter().all(|log| log.is_intact);
    output.json(
        &json!({ "figure": "audit_entries", "value": entries, "unit": "entries", "is_intact": is_intact }),
    )?;
    let events: u64 = facts.events.values().sum();
    let seconds = elapsed.as_secs_f64();
    output.json(&json!({ "figure": "throughput", "value": events as f64 / seconds, "unit": "events/s" }))?;
    output.json(&json!({ "figure": "latency", "p50_ms": all.p50_ms, "p99_ms": all.p99_ms }))?;
    output.json(&json!({ "figure": "latency_cold_start", "p50_ms": cold.p50_ms, "p99_ms": cold.p99_ms }))?;
    for (topic, summary) in by_topic {
        output.json(&json!({
            "figure": "latency", "topic": topic.name(), "p50_ms": summary.p50_ms, "p99_ms": summary.p99_ms,
        }))?;
    }
    for (check, holds) in checks {
        output.json(&json!({ "figure": "check", "name": check, "holds": holds }))?;
    }
    Ok(())
}

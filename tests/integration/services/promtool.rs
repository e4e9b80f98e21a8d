//! Prometheus' own check of what it is to scrape.

use std::io::Write;
use std::process::{Command, Stdio};

use super::kafka::script;

/// Fails unless `promtool check metrics` finds nothing to say about a text.
pub(crate) fn check_metrics(metrics: &str) {
    let mut child = Command::new(script("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

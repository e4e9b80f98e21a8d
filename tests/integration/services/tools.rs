//! Kafka's own tools, as child processes, and what they print.

use std::io::Write;
use std::process::{Command, Stdio};

use super::kafka::{Kafka, script};

/// A class of Kafka's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Topics,
    ConsumerGroups,
    ConsoleProducer,
    ConsoleConsumer,
    DeleteRecords,
    ProducerPerformance,
    EndToEndLatency,
}

impl Tool {
    fn class(self) -> &'static str {
        match self {
            Self::Topics => "org.apache.kafka.tools.TopicCommand",
            Self::ConsumerGroups => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            Self::ConsoleProducer => "org.apache.kafka.tools.ConsoleProducer",
            Self::ConsoleConsumer => "org.apache.kafka.tools.consumer.ConsoleConsumer",
            Self::DeleteRecords => "org.apache.kafka.tools.DeleteRecordsCommand",
            Self::ProducerPerformance => "org.apache.kafka.tools.ProducerPerformance",
            Self::EndToEndLatency => "org.apache.kafka.tools.EndToEndLatency",
        }
    }
}

/// What `ConsumerGroupCommand --describe` says of one partition of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupLag {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Nothing where the group never committed.
    pub(crate) committed: Option<i64>,
    pub(crate) end: i64,
    pub(crate) lag: Option<i64>,
}

/// What Kafka's own latency tool measured, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: u64,
    pub(crate) p99_ms: u64,
    pub(crate) p999_ms: u64,
}

/// A tool of Kafka, to be given arguments.
pub(crate) fn tool(tool: Tool) -> Command {
    let mut command = Command::new(script("kafka"));
    command.args(["tool", tool.class()]);
    command
}

/// Runs a command to its end with this input, and returns what it printed; fails if it failed.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut its_input = child.stdin.take().expect("standard input is piped");
    let output = std::thread::scope(|scope| {
        // From a thread of its own, as the command may print before it has read everything.
        scope.spawn(move || {
            // A command that ended early says why itself.
            let _written = its_input.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{printed}\n{errors}", output.status);
    printed
}

impl Kafka {
    /// Runs a tool past any proxy and returns what it printed. `EndToEndLatency` has a function of its
    /// own, as it takes its arguments by position.
    pub(crate) fn tool(&self, which: Tool, arguments: &[&str]) -> String {
        run(tool(which).args(["--bootstrap-server", self.direct()]).args(arguments), b"")
    }

    /// What Kafka says of a group's progress.
    pub(crate) fn group_lag(&self, group: &str) -> Vec<GroupLag> {
        parse_group_lag(&self.tool(Tool::ConsumerGroups, &["--describe", "--group", group]))
    }

    /// Sends records by the Java console producer: key, value. Neither may contain a tab or a line end.
    pub(crate) fn console_produce(&self, topic: &str, records: &[(String, String)]) {
        let lines: String = records.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        let key = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"];
        let mut command = tool(Tool::ConsoleProducer);
        command.args(["--bootstrap-server", self.direct(), "--topic", topic]).args(key);
        run(&mut command, lines.as_bytes());
    }

    /// Measures with Kafka's own tool how long a record takes from producer to consumer.
    pub(crate) fn end_to_end_latency(&self, topic: &str, records: u32, record_bytes: u32) -> Latency {
        let mut command = tool(Tool::EndToEndLatency);
        // Positions, not options: broker, topic, count, acknowledgements, size.
        command.args([self.direct(), topic, &records.to_string(), "all", &record_bytes.to_string()]);
        parse_latency(&run(&mut command, b""))
    }

    /// Fills a topic with Kafka's own tool; returns records a second.
    pub(crate) fn producer_performance(&self, topic: &str, records: u32, record_bytes: u32) -> f64 {
        let mut command = tool(Tool::ProducerPerformance);
        command.args(["--bootstrap-server", self.direct(), "--topic", topic, "--throughput", "-1"]);
        command.args(["--num-records", &records.to_string(), "--record-size", &record_bytes.to_string()]);
        command.args(["--command-property", "acks=all"]);
        let printed = run(&mut command, b"");
        let last = printed.lines().rfind(|line| line.contains("records sent")).expect("a summary is printed");
        let (_, rate) = last.split_once("sent, ").expect("the summary has a rate");
        rate.split(' ').next().expect("a split has a first part").parse().expect("a rate is a number")
    }
}

/// Reads the table by its heading: columns come and go with Kafka's versions.
fn parse_group_lag(printed: &str) -> Vec<GroupLag> {
    let mut lines = printed.lines().skip_while(|line| !line.starts_with("GROUP"));
    let heading: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let column = |name: &str| {
        heading
            .iter()
            .position(|one| *one == name)
            .unwrap_or_else(|| panic!("no column {name} in:\n{printed}"))
    };
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            GroupLag {
                topic: cells[column("TOPIC")].to_owned(),
                partition: cells[column("PARTITION")].parse().unwrap(),
                committed: cells[column("CURRENT-OFFSET")].parse().ok(),
                end: cells[column("LOG-END-OFFSET")].parse().unwrap(),
                lag: cells[column("LAG")].parse().ok(),
            }
        })
        .collect()
}

fn parse_latency(printed: &str) -> Latency {
    let after = |word: &str| {
        let (_, rest) = printed.split_once(word).unwrap_or_else(|| panic!("no `{word}` in:\n{printed}"));
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').to_owned()
    };
    Latency {
        mean_ms: after("Avg latency: ").parse().unwrap(),
        p50_ms: after("50th = ").parse().unwrap(),
        p99_ms: after("99th = ").parse().unwrap(),
        p999_ms: after("99.9th = ").parse().unwrap(),
    }
}

//! `horizons bench`: measures against limits taken in the same run.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;

use crate::config::Source;
use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log};

/// Measure throughput beside the limits of the same machine in the same run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons bench\n  horizons bench --records 500000 --rounds 3 --json\n  \
                        horizons bench --folder /mnt/fast      measure that disk\n  \
                        horizons bench --kafka localhost:9092 --postgres postgres://me@localhost/bench\n  \
                        horizons bench --kafka localhost:9092 --latency --rate 1000\n\n\
                        --json prints one object a line: figure, value, unit, limit, limit_value, ratio."
)]
pub(super) struct BenchArguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Records in the log
    #[arg(long, default_value = "200000")]
    records: NonZeroU64,
    /// Bytes of a record's payload
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    payload_bytes: u32,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Folder to work in [default: a temporary one]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Read from this Kafka cluster instead of an embedded log: `host:port[,host:port…]`
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    /// Write to this PostgreSQL database as well: `postgres://user@host:port/database`
    #[arg(long, value_name = "URL", requires = "kafka")]
    postgres: Option<String>,
    /// Copies of each partition
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9), requires = "kafka")]
    replication: u16,
    /// Name the topics with this prefix and leave them there, for other clients [default: one of its own]
    #[arg(long, value_name = "PREFIX", requires = "kafka", conflicts_with = "latency")]
    keep_topics: Option<String>,
    /// Measure latencies under an open-loop load instead of throughput
    #[arg(long, requires = "kafka")]
    latency: bool,
    /// Events in a second of that load
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What the benchmark is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Records in the log.
    pub records: NonZeroU64,
    /// Bytes of a record's payload.
    pub payload_bytes: u32,
    /// Rounds.
    pub rounds: u32,
    /// The folder to work in; none means a temporary one.
    pub folder: Option<PathBuf>,
    /// For whom it prints.
    pub form: Form,
    /// The services to measure on; none means what is in the program itself.
    pub kafka: Option<KafkaBench>,
    /// The load whose latencies are measured; none means throughput.
    pub latency: Option<OpenLoop>,
}

/// The services that a benchmark uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaBench {
    /// Brokers to begin with.
    pub bootstrap: String,
    /// The address of a PostgreSQL database; without one SQLite alone is measured.
    pub postgres: Option<String>,
    /// Copies of each partition.
    pub replication: u16,
    /// The prefix of topics that stay; others are removed.
    pub keep_topics: Option<String>,
}

/// A load with a fixed rate, whatever becomes of what was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLoop {
    /// Events in a second.
    pub rate: u32,
    /// How long it lasts.
    pub seconds: u32,
}

/// Runs the benchmark with the example's settings, whatever lies in the working folder.
pub(super) fn run(arguments: &BenchArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = arguments.config.load_or(context, Some(Source::example()))?.config;
    start_quiet_log(&config, context)?;
    let options = BenchOptions {
        records: arguments.records,
        payload_bytes: arguments.payload_bytes,
        rounds: arguments.rounds,
        folder: arguments.folder.clone(),
        form: Form::from_flag(arguments.json),
        kafka: arguments.kafka.clone().map(|bootstrap| KafkaBench {
            bootstrap,
            postgres: arguments.postgres.clone(),
            replication: arguments.replication,
            keep_topics: arguments.keep_topics.clone(),
        }),
        latency: arguments.latency.then_some(OpenLoop { rate: arguments.rate, seconds: arguments.seconds }),
    };
    (context.hooks.bench)(config, options)
}

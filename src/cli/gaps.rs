//! `horizons gaps`: gaps in the log that wait for a decision.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use horizons_actors::ports::query::{GapPosition, StoredGap};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::lane::LaneArguments;
use super::output::Form;
use super::{Context, PageOptions, ask, converse, hint, print_done, print_page, with_output};

/// Look at gaps in the log and accept them
#[derive(Debug, Subcommand)]
pub(super) enum GapsCommand {
    /// List gaps, the open ones first, with what accepting each of them does
    #[command(after_help = "Examples:\n  horizons gaps list\n  horizons gaps list --json\n  \
                            horizons gaps list --data data      where no server runs")]
    List {
        /// Data folder, to read where no server runs
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Let a lane go on behind a gap: skip what was trimmed, or read anew what was made anew
    #[command(
        after_help = "Example:\n  horizons gaps accept --group jobs --topic job-lifecycle --partition 3 \
                            --kind trimmed --next 41 --low 90 --reason 'retention was too short'"
    )]
    Accept(AcceptArguments),
}

/// Names a gap as the list shows it.
#[derive(Debug, Args)]
pub(super) struct AcceptArguments {
    #[command(flatten)]
    lane: LaneArguments,
    /// Kind, as listed
    #[arg(long)]
    kind: String,
    /// Stored position, as listed
    #[arg(long)]
    next: u64,
    /// Low watermark, as listed: there the lane goes on
    #[arg(long)]
    low: u64,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [(&str, &str); 10] = [
    ("GROUP", "group"),
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("STATE", "state"),
    ("KIND", "kind"),
    ("NEXT", "next"),
    ("LOW", "low"),
    ("REMEDY", "remedy"),
    ("SKIPPED", "records_skipped"),
    ("FOUND", "found_at"),
];

/// Runs one of the commands.
pub(super) fn run(command: GapsCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        GapsCommand::List { data: None, page, client } => {
            let answer = ask(&client, context, page.of(Call::get("/gaps")))?;
            print_page(&client, context, &COLUMNS, &answer)
        }
        GapsCommand::List { data: Some(folder), page, client } => {
            list_stored(&folder, &page, &client, context)
        }
        GapsCommand::Accept(gap) => accept(&gap, context),
    }
}

/// Lists the gaps of a data folder; cursors are positions.
fn list_stored(
    folder: &Path,
    page: &PageOptions,
    client: &ClientOptions,
    context: &Context<'_>,
) -> Result<Exit, Failure> {
    let position = |cursor: &String| {
        let message = format!("failed to read `--cursor`: wanted that of an earlier page, got `{cursor}`");
        GapPosition::parse(cursor).ok_or_else(|| Failure::text(Exit::Usage, message))
    };
    let after = page.cursor.as_ref().map(position).transpose()?;
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let opened = (context.hooks.open_store)(folder)?;
    let failed = |error| Failure::new(Exit::Store, &error);
    let gaps = converse(async { opened.store.gaps_after(after, limit).await.map_err(failed) })?;
    let rows: Vec<Value> = gaps.iter().map(StoredGap::shown).collect();
    with_output(Form::from_flag(client.json), context, |output| output.rows(&COLUMNS, &rows))?;
    if let Some(last) = gaps.last().filter(|_| gaps.has_more) {
        hint(&format!("more: --cursor {}", last.position()));
    }
    Ok(Exit::Done)
}

fn accept(gap: &AcceptArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let body = json!({
        "group": gap.lane.group,
        "topic": gap.lane.topic,
        "partition": gap.lane.partition,
        "kind": gap.kind,
        "next": gap.next,
        "low": gap.low,
        "reason": gap.reason,
    });
    let answer = ask(&gap.client, context, Call::post("/gaps/accept", body))?;
    print_done(&gap.client, context, &format!("gap accepted: {} goes on at {}", gap.lane, gap.low), &answer)
}

//! `horizons dead-letters`: records that no lane could apply.

use clap::Subcommand;

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::{Context, PageOptions, ask, print_page};

/// Look at dead letters
#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters in order of lane and offset
    #[command(after_help = "Examples:\n  horizons dead-letters list\n  \
                            horizons dead-letters list --group jobs --limit 10 --json")]
    List {
        /// Of this group only
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
}

const COLUMNS: [(&str, &str); 8] = [
    ("GROUP", "group"),
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("OFFSET", "offset"),
    ("STATE", "state"),
    ("REASON", "reason"),
    ("ATTEMPTS", "attempts"),
    ("DETAIL", "detail"),
];

/// Asks for a page and prints it.
pub(super) fn run(command: &DeadLettersCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let DeadLettersCommand::List { group, page, client } = command;
    let call = Call::get("/dead-letters")
        .query("group", group.as_ref())
        .query("limit", Some(page.limit))
        .query("cursor", page.cursor.as_ref());
    let answer = ask(client, context, call)?;
    print_page(client, context, &COLUMNS, &answer)
}

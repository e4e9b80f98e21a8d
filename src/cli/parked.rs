//! `horizons parked`: keys whose events wait behind a poison event.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions, base64_bytes, base64_text};
use super::lane::LaneArguments;
use super::{Context, PageOptions, ask, print_done, print_page};

/// Look at parked keys, release them or give their poison event up
#[derive(Debug, Subcommand)]
pub(super) enum ParkedCommand {
    /// List parked keys
    #[command(after_help = "Examples:\n  horizons parked list\n  horizons parked list --json")]
    List {
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Try the poison event again and let the rest flow in order
    #[command(
        after_help = "Example:\n  horizons parked release --group jobs --topic job-lifecycle --partition 3 \
                            --key j-1 --reason 'producer is fixed'"
    )]
    Release(KeyArguments),
    /// Give the poison event up, then let the rest flow in order; its dead letter stays
    #[command(
        after_help = "Example:\n  horizons parked discard --group jobs --topic job-lifecycle --partition 3 \
                            --key j-1 --reason 'not ours'"
    )]
    Discard(KeyArguments),
}

/// Names a parked key.
#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    #[command(flatten)]
    lane: LaneArguments,
    /// Key as text
    #[arg(long, required_unless_present = "key_base64", conflicts_with = "key_base64")]
    key: Option<String>,
    /// Key as base64, for bytes that are no text
    #[arg(long, value_name = "BASE64")]
    key_base64: Option<String>,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [(&str, &str); 8] = [
    ("GROUP", "group"),
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("KEY", "key"),
    ("HEAD", "head"),
    ("RECORDS", "records"),
    ("WISH", "wish"),
    ("REASON", "reason"),
];

/// Runs one of the commands.
pub(super) fn run(command: ParkedCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        ParkedCommand::List { page, client } => {
            let mut answer = ask(&client, context, page.of(Call::get("/parked")))?;
            name_keys(&mut answer.body);
            print_page(&client, context, &COLUMNS, &answer)
        }
        ParkedCommand::Release(key) => act(&key, "/parked/release", "release asked for", context),
        ParkedCommand::Discard(key) => act(&key, "/parked/discard", "discard asked for", context),
    }
}

/// Puts each key beside its base64 as it is given to `--key`, or says that it takes `--key-base64`.
fn name_keys(page: &mut Value) {
    for row in page.get_mut("parked").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(base64) = row.get("key_base64").and_then(Value::as_str).map(str::to_owned) else { continue };
        let bytes = base64_bytes(row.get("key_base64")).ok().flatten();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
        if let Some(fields) = row.as_object_mut() {
            fields.insert("key".to_owned(), text.unwrap_or_else(|| format!("base64:{base64}")).into());
        }
    }
}

fn act(key: &KeyArguments, path: &str, done: &str, context: &Context<'_>) -> Result<Exit, Failure> {
    let from_text = key.key.as_ref().map(|text| base64_text(text.as_bytes()));
    let body = json!({
        "group": key.lane.group,
        "topic": key.lane.topic,
        "partition": key.lane.partition,
        "key_base64": from_text.or_else(|| key.key_base64.clone()),
        "reason": key.reason,
    });
    let answer = ask(&key.client, context, Call::post(path, body))?;
    print_done(&key.client, context, &format!("{done}: a key of {}", key.lane), &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_keys_text_is_shown_and_other_bytes_stay_base64() {
        let mut page =
            json!({"parked": [{"key_base64": "ai0x"}, {"key_base64": "/w=="}, {"key_base64": "CQ=="}]});

        name_keys(&mut page);

        let shown = ["j-1", "base64:/w==", "base64:CQ=="];
        assert_eq!(
            page["parked"].as_array().unwrap().iter().map(|row| &row["key"]).collect::<Vec<_>>(),
            shown
        );
    }
}

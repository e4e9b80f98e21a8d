//! Judges a data folder after the fact: from the database's tables, the attempts' folders and what agents noted,
//! never from what the program says about itself.
//!
//! One exception: hashes, chains and trees are judged by the core's verifier over the reading port.

use std::collections::{BTreeMap, BTreeSet};

use horizons::db::postgres::{ConnectionUrl, PostgresConfig, PostgresReader};
use horizons::db::sqlite::SqliteReader;
use horizons_actors::auditor::verify::LogVerifier;
use horizons_actors::ports::query::{AuditFilter, QueryStore};
use serde_json::Value;

use super::load::Ledger;
use super::look::Look;
use super::place::Rows;
use super::server::World;

/// Topics by their stored number, with their partitions.
pub(crate) const TOPICS: [(&str, u64); 5] = [
    ("job-lifecycle", 10),
    ("job-metrics", 10),
    ("notifications", 5),
    ("audit-trail", 5),
    ("system-health", 3),
];

/// What each group follows.
pub(crate) const GROUPS: [(&str, &[u64]); 3] =
    [("audit-trail", &[0, 1, 2, 3, 4]), ("jobs", &[0]), ("job-metrics", &[0, 1])];

/// Low bits of a packed position that hold the offset; above them stand partition and topic, or the lane.
const OFFSET_BITS: u32 = 40;

/// Findings that a failed test shows: one cause often has hundreds.
const FINDINGS_SHOWN: usize = 20;

/// Headers in their order.
pub(crate) type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A record of the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) topic: u64,
    pub(crate) partition: u64,
    pub(crate) offset: u64,
    /// In hexadecimal digits; nothing where there is none.
    pub(crate) key: String,
    /// Read from Kafka only.
    pub(crate) headers: Headers,
    pub(crate) payload: Vec<u8>,
    /// The event, where it is one.
    pub(crate) event: Value,
    /// Whether the same event stands before it: then it must have no effect.
    pub(crate) is_repeat: bool,
}

impl Record {
    /// Takes a record as Kafka gives it.
    pub(crate) fn new(at: (u64, u64, u64), key: Option<&[u8]>, headers: Headers, payload: Vec<u8>) -> Self {
        let key = hex(key.unwrap_or_default());
        let event = serde_json::from_slice(&payload).unwrap_or_default();
        Self { topic: at.0, partition: at.1, offset: at.2, key, headers, payload, event, is_repeat: false }
    }
}

/// Everything that was found wrong.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            self.0.push(what());
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, got: T, wanted: T, what: impl FnOnce() -> String) {
        if got != wanted {
            self.0.push(format!("{}: wanted {wanted:?}, got {got:?}", what()));
        }
    }
}

/// What a check has looked at.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) jobs: usize,
    pub(crate) records: usize,
    /// Records of an event that the log had already.
    pub(crate) repeats: usize,
    pub(crate) starts: usize,
    pub(crate) by_status: BTreeMap<String, usize>,
}

/// Judges everything and fails the test on what is wrong; no server may run.
pub(crate) fn check(world: &World, ledger: &Ledger) -> Seen {
    judge(world, ledger).unwrap_or_else(|findings| panic!("{findings}"))
}

/// Judges everything, and lists what is wrong; no server may run.
pub(crate) fn judge(world: &World, ledger: &Ledger) -> Result<Seen, String> {
    let mut findings = Findings::default();
    findings.check(ledger.surprises.is_empty(), || {
        let shown = ledger.surprises.iter().take(FINDINGS_SHOWN).collect::<Vec<_>>();
        format!("{} answers: {shown:#?}", ledger.surprises.len())
    });
    let mut look = Look::of(world);
    let outbox = read_log(&mut look);
    let whole = match look.topics() {
        None => marked(outbox),
        Some(topics) => {
            let log = marked(topics.read_all());
            let aside = look.rows("'position', position", "outbox_set_aside");
            let aside = aside.iter().map(|row| unpack(number(row, "position"))).collect();
            check_outbox(&outbox, &aside, &log, ledger, &mut findings);
            log
        }
    };
    let log: Vec<Record> = whole.iter().filter(|record| !record.is_repeat).cloned().collect();
    let jobs = look.rows(
        "'job_id', job_id, 'status', status, 'attempt', attempt, 'will_retry', CAST(will_retry AS int),
         'is_live', CAST(is_live AS int),
         'lifecycle', lifecycle_sequence, 'metrics', metrics_sequence, 'samples', samples_published,
         'error_code', error_code, 'agent', agent",
        "jobs",
    );
    let jobs: BTreeMap<String, Value> = jobs.into_iter().map(|job| (text(&job, "job_id"), job)).collect();

    check_log(&mut look, &whole, ledger, &mut findings);
    check_progress(&mut look, &whole, &mut findings);
    check_promises(ledger, &jobs, &log, look.topics().is_some(), &mut findings);
    check_lives(&mut look, &jobs, &log, &mut findings);
    check_metrics(&mut look, &jobs, &log, &mut findings);
    check_outcomes(&mut look, ledger, &log, &mut findings);
    check_acts(&jobs, &log, &mut findings);
    check_audit(&mut look, &whole, &mut findings);
    drop(look);
    verify_audit(world, &mut findings);
    let starts = check_agents(world, &jobs, &mut findings);
    let processes = world.processes();
    findings.check(processes.is_empty(), || format!("orphans: {processes:?}"));

    let mut by_status = BTreeMap::new();
    for job in jobs.values() {
        *by_status.entry(text(job, "status")).or_default() += 1;
    }
    if findings.0.is_empty() {
        let repeats = whole.len() - log.len();
        return Ok(Seen { jobs: jobs.len(), records: log.len(), repeats, starts, by_status });
    }
    let total = findings.0.len();
    findings.0.truncate(FINDINGS_SHOWN);
    Err(format!("{total} findings:\n{}", findings.0.join("\n")))
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {row}")).to_owned()
}

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {row}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

/// Gives topic, partition and offset of a packed position.
fn unpack(position: u64) -> (u64, u64, u64) {
    let partition = (position >> OFFSET_BITS) & 0xffff;
    (position >> (OFFSET_BITS + 16), partition, position & ((1 << OFFSET_BITS) - 1))
}

fn read_log(look: &mut Look) -> Vec<Record> {
    let columns = "'position', position, 'key', hex(key), 'payload', hex(payload)";
    let rows = look.rows(columns, "log ORDER BY position");
    rows.into_iter()
        .map(|row| {
            let (topic, partition, offset) = unpack(number(&row, "position"));
            let payload = bytes(&text(&row, "payload"));
            Record {
                topic,
                partition,
                offset,
                key: text(&row, "key"),
                headers: Headers::new(),
                event: serde_json::from_slice(&payload).unwrap_or_default(),
                payload,
                is_repeat: false,
            }
        })
        .collect()
}

/// Marks the records of an event that stands before them in their topic.
fn marked(mut log: Vec<Record>) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    for record in log.iter_mut().filter(|record| record.topic < TOPICS.len() as u64) {
        if let Some(event_id) = record.event["event_id"].as_str() {
            record.is_repeat = !seen.insert((record.topic, event_id.to_owned()));
        }
    }
    log
}

/// Tells whether a record was written to Kafka by somebody else.
fn is_foreign(record: &Record, ledger: &Ledger) -> bool {
    let same = |key: &String| hex(key.as_bytes()) == record.key;
    ledger.foreign.iter().any(|(topic, key)| TOPICS[record.topic as usize % 16].0 == *topic && same(key))
        && record.topic < TOPICS.len() as u64
}

/// Every row of the outbox that is still there is in Kafka once, in the order of the outbox, byte for byte;
/// rows that were sent may have been removed from the front.
fn check_outbox(
    outbox: &[Record],
    aside: &BTreeSet<(u64, u64, u64)>,
    log: &[Record],
    ledger: &Ledger,
    findings: &mut Findings,
) {
    type Rows<'a> = BTreeMap<(u64, u64), Vec<(&'a str, &'a [u8])>>;
    let mut sent = Rows::new();
    for record in log.iter().filter(|record| !record.is_repeat && !is_foreign(record, ledger)) {
        sent.entry((record.topic, record.partition)).or_default().push((&record.key, &record.payload));
    }
    let mut rows = Rows::new();
    for row in outbox.iter().filter(|row| !aside.contains(&(row.topic, row.partition, row.offset))) {
        rows.entry((row.topic, row.partition)).or_default().push((&row.key, &row.payload));
    }
    for ((topic, partition), rows) in rows {
        let sent = sent.get(&(topic, partition)).map_or(&[][..], Vec::as_slice);
        let last = sent.get(sent.len().saturating_sub(rows.len())..).unwrap_or_default();
        findings.check(last == rows, || {
            let same = last.iter().zip(&rows).take_while(|(sent, row)| sent == row).count();
            format!("{topic}-{partition}: Kafka has {} of {} rows of the outbox in order", same, rows.len())
        });
    }
}

/// Offsets stand without holes up to the head; no event is there twice, unless that may be.
fn check_log(look: &mut Look, log: &[Record], ledger: &Ledger, findings: &mut Findings) {
    let mut ends: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut own: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for record in log {
        let end = ends.entry((record.topic, record.partition)).or_default();
        findings.same(record.offset, *end, || format!("offset in {}-{}", record.topic, record.partition));
        *end = record.offset + 1;
        if !record.is_repeat && !is_foreign(record, ledger) {
            *own.entry((record.topic, record.partition)).or_default() += 1;
        }
    }
    let repeats: Vec<_> = log.iter().filter(|record| record.is_repeat).collect();
    findings.check(repeats.is_empty() || ledger.may_repeat, || {
        let places = repeats.iter().take(FINDINGS_SHOWN);
        let places: Vec<_> = places.map(|at| (at.topic, at.partition, at.offset)).collect();
        format!("{} events are in the log twice, again at {places:?}", repeats.len())
    });
    let ends = own;
    let mut heads: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for head in look.rows("'topic', topic, 'partition', partition, 'next', next_offset", "log_head") {
        heads.insert((number(&head, "topic"), number(&head, "partition")), number(&head, "next"));
    }
    if look.topics().is_some() {
        for row in look.rows("'position', position", "outbox_set_aside") {
            let (topic, partition, _) = unpack(number(&row, "position"));
            heads.entry((topic, partition)).and_modify(|next| *next -= 1);
        }
    }
    heads.retain(|_, next| *next > 0);
    findings.same(heads, ends, || "heads of the log".to_owned());
}

/// Every lane of every group is at the end of its partition.
fn check_progress(look: &mut Look, log: &[Record], findings: &mut Findings) {
    let rows = look.rows(
        "'group', group_name, 'topic', topic, 'partition', partition, 'next', coalesce(next_offset, 0)",
        "lanes JOIN progress USING (lane)",
    );
    let got: BTreeMap<(String, u64, u64), u64> = rows
        .iter()
        .map(|row| {
            ((text(row, "group"), number(row, "topic"), number(row, "partition")), number(row, "next"))
        })
        .collect();
    let mut wanted = BTreeMap::new();
    for (group, topics) in GROUPS {
        for topic in topics {
            for partition in 0..TOPICS[*topic as usize].1 {
                let of_lane =
                    log.iter().filter(|record| record.topic == *topic && record.partition == partition);
                wanted.insert((group.to_owned(), *topic, partition), of_lane.count() as u64);
            }
        }
    }
    findings.same(got, wanted, || "progress".to_owned());
}

/// What was answered is there, and nothing else.
fn check_promises(
    ledger: &Ledger,
    jobs: &BTreeMap<String, Value>,
    log: &[Record],
    is_in_kafka: bool,
    findings: &mut Findings,
) {
    let mut promised = BTreeSet::new();
    for (key, submit) in &ledger.submits {
        match &submit.job_id {
            None => findings.0.push(format!("submit `{key}` was never answered")),
            Some(job_id) => {
                findings.check(promised.insert(job_id.clone()), || format!("`{job_id}` has two keys"))
            }
        }
    }
    findings.same(jobs.keys().cloned().collect(), promised, || "jobs".to_owned());
    for job_id in &ledger.cancelled {
        let status = jobs.get(job_id).map(|job| text(job, "status"));
        // A cancel that was accepted may come too late for the agent, never for nothing.
        findings.check(status.is_some_and(|status| status != "RUNNING"), || format!("cancel of `{job_id}`"));
    }
    // In Kafka a record stands elsewhere than in the outbox once others have written to its partition.
    let mut stored: BTreeMap<(u64, u64, &str, &[u8]), Vec<u64>> = BTreeMap::new();
    for record in log {
        let at = (record.topic, record.partition, record.key.as_str(), record.payload.as_slice());
        stored.entry(at).or_default().push(record.offset);
    }
    for record in &ledger.appended {
        let topic = TOPICS.iter().position(|(name, _)| *name == record.topic).unwrap() as u64;
        let key = hex(record.key.as_bytes());
        let offsets = stored.get(&(topic, record.partition, key.as_str(), record.payload.as_slice()));
        let is_there = offsets.is_some_and(|offsets| is_in_kafka || offsets.contains(&record.offset));
        findings.check(is_there, || format!("record of `{}` at {}", record.key, record.offset));
    }
}

fn of_job<'a>(log: &'a [Record], topic: u64, job_id: &'a str) -> impl Iterator<Item = &'a Record> {
    log.iter().filter(move |record| record.topic == topic && record.event["job_id"] == job_id)
}

/// Each job's life: its events in order and once, the view and the timeline that follow from them, its end.
fn check_lives(look: &mut Look, jobs: &BTreeMap<String, Value>, log: &[Record], findings: &mut Findings) {
    let timeline = look.rows(
        "'job_id', job_id, 'offset', record_offset, 'sequence', sequence, 'event_id', hex(event_id)",
        "job_timeline ORDER BY job_id, record_offset",
    );
    let mut steps: BTreeMap<String, Vec<(u64, u64, String)>> = BTreeMap::new();
    for step in &timeline {
        let row = (number(step, "offset"), number(step, "sequence"), text(step, "event_id"));
        steps.entry(text(step, "job_id")).or_default().push(row);
    }
    let owned = look.rows("'job_id', job_id, 'sequence', sequence, 'event_id', hex(event_id)", "job_events");
    let owned: BTreeSet<(String, u64, String)> = owned
        .iter()
        .map(|row| (text(row, "job_id"), number(row, "sequence"), text(row, "event_id")))
        .collect();
    let views = look.rows(
        "'job_id', job_id, 'status', status, 'attempt', attempt, 'will_retry', CAST(will_retry AS int),
         'sequence', last_sequence, 'is_confirmed', CAST(is_confirmed AS int),
         'is_owned', CAST(is_owned AS int)",
        "job_views",
    );
    let views: BTreeMap<String, Vec<&Value>> = views.iter().fold(BTreeMap::new(), |mut views, view| {
        views.entry(text(view, "job_id")).or_insert_with(Vec::new).push(view);
        views
    });
    for (job_id, job) in jobs {
        let is_terminal = matches!(text(job, "status").as_str(), "COMPLETED" | "FAILED" | "CANCELLED");
        let is_over = is_terminal && number(job, "is_live") == 0 && number(job, "will_retry") == 0;
        findings.check(is_over, || format!("not over: {job}"));
        let mut life = Vec::new();
        let mut last_status = String::new();
        for (index, record) in of_job(log, 0, job_id).enumerate() {
            let sequence = number(&record.event, "sequence");
            let event_id = text(&record.event, "event_id").replace('-', "").to_ascii_uppercase();
            findings.same(sequence, index as u64 + 1, || format!("sequence of `{job_id}`"));
            let is_vouched = owned.contains(&(job_id.clone(), sequence, event_id.clone()));
            findings.check(is_vouched, || format!("event {sequence} of `{job_id}` is not the stored one"));
            if record.event["event_type"] == "job.status_changed" {
                last_status = text(&record.event["payload"], "current_status");
            }
            life.push((record.offset, sequence, event_id));
        }
        findings.same(life.len() as u64, number(job, "lifecycle"), || format!("events of `{job_id}`"));
        findings.same(last_status, text(job, "status"), || format!("last event of `{job_id}`"));
        findings.same(steps.remove(job_id).unwrap_or_default(), life, || format!("timeline of `{job_id}`"));
        let view = views.get(job_id).filter(|views| views.len() == 1).map(|views| {
            let view = views[0];
            (
                (text(view, "status"), number(view, "attempt"), number(view, "will_retry")),
                (number(view, "sequence"), number(view, "is_confirmed"), number(view, "is_owned")),
            )
        });
        let wanted = (
            (text(job, "status"), number(job, "attempt"), number(job, "will_retry")),
            (number(job, "lifecycle"), 1, 1),
        );
        findings.same(view, Some(wanted), || format!("view of `{job_id}`"));
    }
    // A clean-up falls due some time after its job's end, so one may have come between settling and the stop;
    // the next start carries it out.
    let not_done = look.count("orders WHERE CAST(is_answered AS int) = 0 AND kind <> 'clean'");
    findings.same(not_done, 0, || "open orders".to_owned());
}

/// Each sample is in the log once and in the aggregates once; each status is counted once.
fn check_metrics(look: &mut Look, jobs: &BTreeMap<String, Value>, log: &[Record], findings: &mut Findings) {
    let mut samples: BTreeMap<(String, u64), (u64, u64)> = BTreeMap::new();
    for record in log.iter().filter(|record| record.topic == 1) {
        let payload = &record.event["payload"];
        let key = (text(&record.event, "job_id"), number(payload, "attempt"));
        let (count, summaries) = samples.entry(key).or_default();
        if payload["summary"] == true { *summaries += 1 } else { *count += 1 }
    }
    for (job_id, job) in jobs {
        let sequences: Vec<u64> =
            of_job(log, 1, job_id).map(|record| number(&record.event, "sequence")).collect();
        let wanted: Vec<u64> = (1..=number(job, "metrics")).collect();
        findings.same(sequences, wanted, || format!("metrics of `{job_id}`"));
    }
    let rows = look.rows(
        "'job_id', job_id, 'attempt', attempt, 'cpu', cpu_count, 'memory', memory_count,
         'has_summary', CAST(summary_cpu IS NOT NULL AS int)",
        "job_aggregates",
    );
    let got: BTreeMap<(String, u64), (u64, u64)> = rows
        .iter()
        .map(|row| {
            ((text(row, "job_id"), number(row, "attempt")), (number(row, "cpu"), number(row, "has_summary")))
        })
        .collect();
    findings.same(rows.len(), got.len(), || "aggregates of one attempt".to_owned());
    findings.same(got, samples, || "aggregates".to_owned());
    let mut entered: BTreeMap<String, u64> = BTreeMap::new();
    for event in log.iter().filter(|record| record.topic == 0).map(|record| &record.event) {
        if event["event_type"] == "job.submitted" {
            *entered.entry("SUBMITTED".to_owned()).or_default() += 1;
        } else if event["event_type"] == "job.status_changed" {
            *entered.entry(text(&event["payload"], "current_status")).or_default() += 1;
        }
    }
    let counts = look.rows("'status', status, 'entered', sum(entered)", "status_counts GROUP BY status");
    let counts = counts.iter().map(|row| (text(row, "status"), number(row, "entered"))).collect();
    findings.same(counts, entered, || "status counts".to_owned());
}

/// Each lifecycle record has exactly one outcome in the jobs group.
fn check_outcomes(look: &mut Look, ledger: &Ledger, log: &[Record], findings: &mut Findings) {
    let mask = (1_u64 << OFFSET_BITS) - 1;
    let outcomes = format!(
        "(SELECT lane, record_offset, 'applied' AS outcome FROM job_timeline
          UNION ALL SELECT refusal >> {OFFSET_BITS}, refusal & {mask}, 'refused' FROM refusals
          UNION ALL SELECT lane, record_offset, 'parked' FROM parked_records
          UNION ALL SELECT letter >> {OFFSET_BITS}, letter & {mask}, state FROM dead_letters WHERE state <> 'parked')
         AS outcomes JOIN lanes USING (lane) WHERE group_name = 'jobs'"
    );
    let rows = look.rows("'partition', partition, 'offset', record_offset, 'outcome', outcome", &outcomes);
    let mut got: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    // A dead letter that was released was answered like any other record: that outcome stands elsewhere.
    for row in rows.iter().filter(|row| row["outcome"] != "released") {
        got.entry((number(row, "partition"), number(row, "offset"))).or_default().push(text(row, "outcome"));
    }
    for record in log.iter().filter(|record| record.topic == 0) {
        let outcomes = got.remove(&(record.partition, record.offset)).unwrap_or_default();
        let is_event = record.event["event_id"].is_string();
        let is_given_up = ledger.given_up.contains(&(record.partition, record.offset));
        let is_right = match (outcomes.as_slice(), is_event) {
            ([outcome], true) if is_given_up => outcome == "discarded",
            ([outcome], true) => outcome == "applied",
            ([outcome], false) => matches!(outcome.as_str(), "parked" | "discarded" | "dead"),
            _ => false,
        };
        findings
            .check(is_right, || format!("outcomes of {}-{}: {outcomes:?}", record.partition, record.offset));
    }
    findings.check(got.is_empty(), || format!("outcomes without a record: {got:?}"));
    let published = log.iter().filter(|record| record.topic >= TOPICS.len() as u64).count() as i64;
    findings.same(published, look.count("dead_letters"), || "records of dead-letter topics".to_owned());
}

/// Each accepted submit stands in the audit trail once.
fn check_acts(jobs: &BTreeMap<String, Value>, log: &[Record], findings: &mut Findings) {
    let mut submits: BTreeMap<String, u64> = BTreeMap::new();
    for payload in log.iter().filter(|record| record.topic == 3).map(|record| &record.event["payload"]) {
        if payload["action"] == "job.submit" {
            *submits.entry(text(payload, "resource_id")).or_default() += 1;
        }
    }
    let wanted = jobs.keys().map(|job_id| (job_id.clone(), 1)).collect();
    findings.same(submits, wanted, || "acts of submitting".to_owned());
}

/// Each record has one entry, in order of offset, with the record's bytes.
fn check_audit(look: &mut Look, log: &[Record], findings: &mut Findings) {
    let rows = look.rows(
        "'topic', topic, 'partition', partition, 'index', first_index + entry - base_entry,
         'offset', record_offset, 'key', hex(key), 'payload', hex(payload), 'mark', mark",
        "audit_runs JOIN lanes USING (lane)
         JOIN audit_entries ON entry BETWEEN base_entry AND base_entry + entries - 1
         JOIN audit_bodies USING (entry) ORDER BY topic, partition, first_index, entry",
    );
    findings.same(look.count("audit_entries"), rows.len() as i64, || "audit entries in runs".to_owned());
    let log: Vec<&Record> = log.iter().filter(|record| record.topic < TOPICS.len() as u64).collect();
    findings.same(rows.len(), log.len(), || "audit entries".to_owned());
    for (row, record) in rows.iter().zip(log) {
        let got =
            (number(row, "topic"), number(row, "partition"), number(row, "offset"), number(row, "index"));
        findings
            .same(got, (record.topic, record.partition, record.offset, record.offset), || "entry".to_owned());
        let is_same = text(row, "key") == record.key && bytes(&text(row, "payload")) == record.payload;
        findings.check(is_same, || format!("bytes of entry {got:?}"));
        findings.same(row["mark"] == "duplicate", record.is_repeat, || format!("mark of entry {got:?}"));
    }
}

fn verify_audit(world: &World, findings: &mut Findings) {
    match &world.place().rows {
        Rows::Sqlite => {
            let reader = SqliteReader::open(&world.data()).unwrap();
            verify_logs(&reader, findings);
        }
        Rows::Postgres { direct, schema, .. } => {
            let url = ConnectionUrl::new(direct.clone());
            let config = PostgresConfig { schema: schema.clone(), ..PostgresConfig::new(url) };
            let reader = PostgresReader::open(&config).unwrap();
            verify_logs(&reader, findings);
        }
    }
}

fn verify_logs(reader: &impl QueryStore, findings: &mut Findings) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for log in reader.audit_logs().await.unwrap() {
            let topic_partition = log.topic_partition;
            let mut verifier = LogVerifier::new(log.log_id, topic_partition);
            let mut after = None;
            loop {
                let partition = Some(topic_partition.partition.0);
                let topic = Some(topic_partition.topic);
                let generation = Some(log.generation);
                let filter =
                    AuditFilter { topic, partition, generation, after, limit: 500, ..AuditFilter::default() };
                let page = reader.audit_entries(filter).await.unwrap();
                page.entries.iter().for_each(|entry| verifier.push(entry));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            let report = verifier.finish(&log.state);
            findings.check(report.is_intact, || format!("audit: {:?}", report.findings));
        }
    });
}

/// Each attempt's agent was started once, or never where the attempt ended before it.
fn check_agents(world: &World, jobs: &BTreeMap<String, Value>, findings: &mut Findings) -> usize {
    let mut noted: BTreeMap<(String, u64), (u64, u64)> = BTreeMap::new();
    for (what, job_id, attempt) in world.noted() {
        let (starts, ends) = noted.entry((job_id, attempt)).or_default();
        if what == "start" { *starts += 1 } else { *ends += 1 }
    }
    let starts = noted.len();
    for (job_id, job) in jobs {
        for attempt in 1..=number(job, "attempt") {
            let (starts, ends) = noted.remove(&(job_id.clone(), attempt)).unwrap_or_default();
            let status = text(job, "status");
            let is_right = match status.as_str() {
                "COMPLETED" => (starts, ends) == (1, 1),
                "CANCELLED" => starts <= 1 && ends <= starts,
                _ if job["error_code"] == "attempt_lost" => starts <= 1 && ends <= starts,
                _ => (starts, ends) == (1, 0),
            };
            findings.check(is_right, || format!("{starts} starts and {ends} ends of {job}"));
        }
    }
    findings.check(noted.is_empty(), || format!("agents that no job asked for: {noted:?}"));
    starts
}

//! Many rows, by statements that both engines take.

use horizons_actors::record::Headers;

/// The key that many records wait behind.
pub(super) const QUEUE: &str = "queue";

/// What differs between the engines.
pub(super) struct Dialect {
    /// A row source `n` that counts from 1 to so many.
    pub(super) count: fn(u64) -> String,
    /// Bytes, from their digits.
    pub(super) bytes: fn(&str) -> String,
    /// The bytes of a text.
    pub(super) text_bytes: fn(&str) -> String,
    /// Truth and its absence.
    pub(super) is: [&'static str; 2],
}

/// The lanes whose rows there are many of.
pub(super) struct Numbers {
    /// The jobs group's, with the queue.
    pub(super) jobs: i64,
    /// Another one of the group, with many keys.
    pub(super) other: i64,
    pub(super) auditor: i64,
}

/// Gives the statements that fill the tables. Jobs are named `job-1` and so on; a hundred of them live.
pub(super) fn statements(dialect: &Dialect, rows: u64, lanes: &Numbers) -> Vec<String> {
    let Numbers { jobs, other, auditor } = lanes;
    let n = (dialect.count)(rows);
    let headers: String = Headers::none().as_block().iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = (dialect.bytes)(&headers);
    let uuid = (dialect.bytes)(&"07".repeat(16));
    let digest = (dialect.bytes)(&"07".repeat(32));
    let payload = (dialect.bytes)(&"78".repeat(100));
    let queue = (dialect.text_bytes)(QUEUE);
    let key = "'key-' || n";
    let key_bytes = (dialect.text_bytes)("KEY").replace("'KEY'", &format!("({key})"));
    let [yes, no] = dialect.is;
    // Above what the store numbers itself from here on.
    let first_entry = 1_i64 << 40;
    let record = format!("1, 0, NULL, {headers}, {payload}");
    let packed = |lane: &i64| format!("{} + n", lane << 40);
    // Topic 0 is `job-lifecycle`; the first partition of the log begins at 0.
    let mut all = vec![
        format!("INSERT INTO log SELECT n - 1, {record} FROM {n}"),
        format!("INSERT INTO log_head (topic, partition, next_offset) VALUES (0, 0, {rows})"),
        format!("INSERT INTO outbox_set_aside SELECT n, {record}, {uuid}, 1 FROM {n}"),
        format!(
            "INSERT INTO jobs (job_id, user_id, agent, dataset_id, parameters, tacc_system, correlation_id, status,
                 attempt, will_retry, is_live, lifecycle_sequence, metrics_sequence, samples_published, submitted_at,
                 updated_at)
             SELECT 'job-' || n, CASE WHEN n % 2 = 0 THEN 'ada' ELSE 'bob' END, 'imaging', 'd', '{{}}', 'local',
                 {uuid}, CASE WHEN n <= 100 THEN 'RUNNING' ELSE 'COMPLETED' END, 1, {no},
                 CASE WHEN n <= 100 THEN {yes} ELSE {no} END, 1, 0, 0, n, n FROM {n}"
        ),
        format!("INSERT INTO job_events SELECT 'job-' || n, 1, {uuid} FROM {n}"),
        format!(
            "INSERT INTO orders (job_id, attempt, kind, ordered_at, is_answered)
             SELECT 'job-' || n, 1, 'submit', n, CASE WHEN n <= 100 THEN {no} ELSE {yes} END FROM {n}"
        ),
        format!("INSERT INTO idempotency_keys SELECT 'ada', {key}, {digest}, 'job-' || n, n FROM {n}"),
        format!(
            "INSERT INTO job_views SELECT 'job-' || n, {jobs}, {yes}, 'ada', NULL, NULL, 'COMPLETED', 1, {no}, {yes},
                 1, {uuid}, n, n, n FROM {n}"
        ),
        format!(
            "INSERT INTO live_job_views SELECT job_id, lane FROM job_views WHERE submitted_at <= 100"
        ),
        format!(
            "INSERT INTO job_timeline SELECT 'job-' || n, {jobs}, n, {uuid}, 'job.running', 1, 'RUNNING', 1, n, n, ''
             FROM {n}"
        ),
        format!(
            "INSERT INTO job_aggregates SELECT 'job-' || n, 1, {jobs}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                 1, NULL, NULL, NULL, NULL, n FROM {n}"
        ),
        format!(
            "INSERT INTO refusals SELECT {}, {uuid}, 'job-' || n, 'job.running', 'late', '', n FROM {n}",
            packed(jobs)
        ),
        format!("INSERT INTO timers SELECT {jobs}, 'kind', {key}, n FROM {n}"),
        format!(
            "INSERT INTO dead_letters SELECT {}, {record}, 'malformed_bytes', '', 'parked', 1, n, n FROM {n}",
            packed(jobs)
        ),
        format!(
            "INSERT INTO parked_keys VALUES ({jobs}, {queue}, 1, 'malformed_bytes', '', {rows}, 'wait', NULL, 1)"
        ),
        format!("INSERT INTO parked_records SELECT {jobs}, {queue}, n, {record}, 1 FROM {n}"),
        format!(
            "INSERT INTO parked_keys SELECT {other}, {key_bytes}, n, 'malformed_bytes', '', 1, 'wait', NULL, 1 FROM {n}"
        ),
        format!("INSERT INTO parked_records SELECT {other}, {key_bytes}, n, {record}, 1 FROM {n}"),
        format!(
            "INSERT INTO gaps (lane, kind, next_offset, low_offset, high_offset, found_at, decided_at, decided_by,
                 command_id)
             SELECT {jobs}, 'trimmed', 1, 2, 3, n, n, 'ada', {uuid} FROM {n}"
        ),
    ];
    all.push(format!(
        "INSERT INTO audit_entries SELECT {first_entry} + n, n, {digest}, {digest}, 'event', n FROM {n}"
    ));
    all.push(format!("INSERT INTO audit_bodies SELECT {first_entry} + n, {record} FROM {n}"));
    all.push(format!(
        "INSERT INTO audit_runs SELECT {auditor}, (n - 1) * 10, {first_entry} + (n - 1) * 10 + 1, 10 FROM {}",
        (dialect.count)(rows / 10)
    ));
    all.push(format!(
        "INSERT INTO audit_logs VALUES ({auditor}, {rows}, {digest}, {digest}, {rows}, 0, 0, 1)"
    ));
    all
}

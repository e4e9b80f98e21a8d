//! The statement that reads a range of the audit log.

/// Writes the statement that walks the wanted entries of a range and gives some of their columns.
macro_rules! scan {
    ($columns:literal) => {
        concat!(
            "SELECT r.first_index + (e.entry - r.base_entry) AS \"index\", ",
            $columns,
            "
    FROM (
        SELECT first_index, base_entry, entries
        FROM audit_runs
        WHERE lane = $1
          AND first_index <= $3
          AND first_index >= coalesce(
                (SELECT max(h.first_index) FROM audit_runs AS h WHERE h.lane = $1 AND h.first_index <= $2), $2)
        ORDER BY first_index
    ) AS r
    CROSS JOIN LATERAL (
        SELECT a.entry, a.record_offset, a.leaf_hash, a.chain_hash, a.mark, a.appended_at,
               b.recorded_at, b.time_type, b.key, b.headers, b.payload
        FROM audit_entries AS a
        LEFT JOIN audit_bodies AS b ON b.entry = a.entry
        WHERE a.entry BETWEEN r.base_entry + greatest($2 - r.first_index, 0)
                          AND r.base_entry + least($3 - r.first_index, r.entries - 1)
          AND ($5 IS NULL OR b.key = $5)
        ORDER BY a.entry
        LIMIT $4
    ) AS e
    WHERE r.first_index + r.entries <= coalesce(
            (SELECT min(n.first_index) FROM audit_runs AS n WHERE n.lane = $1 AND n.first_index > r.first_index),
            (SELECT size FROM audit_logs WHERE lane = $1))
    ORDER BY r.first_index, e.entry
    LIMIT $4"
        )
    };
}

/// Reads the wanted entries of a range: lane, first and last index, most rows, and the key of the record or null.
///
/// The run that holds an index is the last one that begins at or before it. A run is believed only if it ends
/// before the next one begins and before its log ends: what a changed or inserted run covers is missing then,
/// and a verification finds it.
///
/// `LATERAL` with a limit holds the engine to this order of loops, which is the order of indexes.
pub(super) const SCAN: &str = scan!(
    "e.record_offset, e.leaf_hash, e.chain_hash, e.mark, e.appended_at, e.recorded_at, e.time_type, e.key, e.headers, e.payload"
);

/// Weighs the same entries: the bytes of their bodies. What is weighed is not read.
pub(super) const WEIGH: &str = scan!(
    "CAST(coalesce(octet_length(e.key), 0) + coalesce(octet_length(e.headers), 0) \
     + coalesce(octet_length(e.payload), 0) AS BIGINT) AS weight"
);

//! Recomputing the audit trail through a query port.

use std::sync::Arc;

use horizons_actors::auditor::verify::{LogVerifier, VerificationReport};
use horizons_actors::ports::query::{AuditFilter, AuditPosition, QueryStore};
use horizons_actors::ports::store::StoreError;

/// Entries that one read takes.
const PAGE_ENTRIES: usize = 1_000;

/// Verifies every audit log of a store, in order of topic, partition and generation.
pub(super) async fn verify_all(queries: &Arc<dyn QueryStore>) -> Result<Vec<VerificationReport>, StoreError> {
    let mut reports = Vec::new();
    for log in queries.audit_logs().await? {
        let partition = log.topic_partition;
        let mut verifier = LogVerifier::new(log.log_id, partition);
        let mut after: Option<AuditPosition> = None;
        loop {
            let filter = AuditFilter {
                topic: Some(partition.topic),
                partition: Some(partition.partition.0),
                generation: Some(log.generation),
                after,
                limit: PAGE_ENTRIES,
                ..AuditFilter::default()
            };
            let page = queries.audit_entries(filter).await?;
            for entry in &page.entries {
                verifier.push(entry);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        reports.push(verifier.finish(&log.state));
    }
    Ok(reports)
}

//! Recomputing the audit trail through a query port.

use std::sync::Arc;

use horizons_actors::auditor::verify::{LogVerifier, VerificationReport};
use horizons_actors::ids::LogId;
use horizons_actors::ports::query::{AuditFilter, AuditPosition, QueryStore};
use horizons_actors::ports::store::StoreError;

/// Entries that one read takes.
const PAGE_ENTRIES: usize = 1_000;

/// Verifies every audit log of a store, in order of topic and partition.
pub(super) async fn verify_all(
    queries: &Arc<dyn QueryStore>,
    log_id: &LogId,
) -> Result<Vec<VerificationReport>, StoreError> {
    let mut reports = Vec::new();
    for (partition, state) in queries.audit_logs().await? {
        let mut verifier = LogVerifier::new(log_id.clone(), partition);
        let mut after: Option<AuditPosition> = None;
        loop {
            let filter = AuditFilter {
                topic: Some(partition.topic),
                partition: Some(partition.partition.0),
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
        reports.push(verifier.finish(&state));
    }
    Ok(reports)
}

//! Reading for people.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::StoreCall;
use super::lanes::{KeptDeadLetter, KeptParkedKey, LaneTables, memory_log};
use super::{MemoryStore, State};
use crate::effect::{AuditEntry, DeadLetterOutcome, TimelineEntry};
use crate::event::JobStatus;
use crate::ids::{Attempt, Generation, Group, JobId, LaneKey, Offset, Topic, TopicPartition, UserId};
use crate::ports::Reply;
use crate::ports::page::Page;
use crate::ports::query::{
    AuditFilter, AuditPage, AuditPosition, DeadLetterId, GapPosition, HeldLane, JobFilter, LaneProgress,
    ListedJob, ParkedId, QueryStore, StoreUsage, StoredAuditEntry, StoredAuditLog, StoredDeadLetter,
    StoredGap, StoredParkedKey, StoredRefusal,
};
use crate::ports::store::{DesiredState, JobRow, StoreError};
use crate::state::{JobAggregate, JobOrigin, JobView, StateKey, StateValue};

impl QueryStore for MemoryStore {
    fn jobs(&self, filter: JobFilter) -> Reply<Page<ListedJob>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let rows = &state.jobs.rows;
            let owned = rows.values().map(|row| (row.user_id.clone(), row.status, owned_job(row)));
            let foreign = newest_views(state)
                .into_values()
                .filter(|view| view.origin == JobOrigin::External && !rows.contains_key(&view.job_id));
            let foreign = foreign.map(|view| (view.user_id.clone(), view.status, external_job(view)));
            let is_wanted = |(user_id, status, job): &(UserId, JobStatus, ListedJob)| {
                let origin = match job {
                    ListedJob::Owned(_) => JobOrigin::Owned,
                    ListedJob::External(_) => JobOrigin::External,
                };
                filter.origin.is_none_or(|wanted| origin == wanted)
                    && filter.user_id.as_ref().is_none_or(|wanted| user_id == wanted)
                    && filter.status.is_none_or(|wanted| *status == wanted)
                    && filter.id_beginning.as_ref().is_none_or(|wanted| wanted.is_of(job.position().1))
                    && filter.behind.as_ref().is_none_or(|(at, job_id)| match filter.id_beginning {
                        Some(_) => job.position().1 > job_id,
                        None => job.position() < (*at, job_id),
                    })
            };
            let wanted = owned.chain(foreign).filter(is_wanted);
            let mut jobs: Vec<ListedJob> = wanted.map(|(_, _, job)| job).collect();
            match filter.id_beginning {
                Some(_) => jobs.sort_by(|left, right| left.position().1.cmp(right.position().1)),
                None => jobs.sort_by(|left, right| right.position().cmp(&left.position())),
            }
            Ok(Page::of(jobs, filter.limit))
        })
    }

    fn job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.run_read(StoreCall::Query, move |state| Ok(state.jobs.rows.get(&job_id).cloned()))
    }

    fn job_view(&self, job_id: JobId) -> Reply<Option<JobView>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let key = StateKey::JobView(job_id);
            let find = |tables: &LaneTables| match tables.states.get(&key) {
                Some(StateValue::JobView(view)) => Some(view.clone()),
                _ => None,
            };
            Ok(newest_first(state).into_iter().find_map(|(_, tables)| find(tables)))
        })
    }

    fn live_job_views(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobView>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let mut views = BTreeMap::new();
            for (_, tables) in newest_first(state) {
                for value in tables.states.values() {
                    if let StateValue::JobView(view) = value {
                        let is_silent = tables.silent.contains(&view.job_id);
                        views.entry(view.job_id.clone()).or_insert((view, is_silent));
                    }
                }
            }
            let live = views.into_values().filter(|(view, is_silent)| !view.is_terminal() && !is_silent);
            let live = live.map(|(view, _)| view);
            let wanted = live.filter(|view| after.as_ref().is_none_or(|after| view.job_id > *after));
            Ok(wanted.take(limit).cloned().collect())
        })
    }

    fn timeline_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<TimelineEntry>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let of_job = |tables: &LaneTables| {
                let entries = tables.timeline.values().filter(|entry| entry.job_id == job_id);
                entries.cloned().collect::<Vec<_>>()
            };
            let lanes = all_lanes(state).into_iter();
            let mut entries: Vec<_> = lanes.flat_map(|(_, tables)| of_job(tables)).collect();
            // Lanes come in their order, and entries of one in that of their offsets.
            entries.sort_by_key(|entry| entry.sequence);
            Ok(Page::of(entries.into_iter().skip(skipped), limit))
        })
    }

    fn refusals_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<StoredRefusal>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let mut found = Vec::new();
            for (lane, tables) in all_lanes(state) {
                let about_job = tables.refusals.values().filter(|row| row.job_id.as_ref() == Some(&job_id));
                found.extend(about_job.map(|refusal| StoredRefusal {
                    lane: lane.clone(),
                    offset: refusal.offset,
                    reason: refusal.reason.to_owned(),
                    detail: refusal.detail.clone(),
                    refused_at: refusal.refused_at,
                }));
            }
            found.sort_by_key(|refusal| (refusal.lane.clone(), refusal.offset));
            Ok(Page::of(found.into_iter().skip(skipped), limit))
        })
    }

    fn aggregates_after(
        &self,
        job_id: JobId,
        after: Option<Attempt>,
        limit: usize,
    ) -> Reply<Page<JobAggregate>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            // A lane of an older generation speaks only about attempts that no newer one knows.
            let mut found: BTreeMap<(Attempt, &LaneKey), &JobAggregate> = BTreeMap::new();
            for (lane, tables) in newest_first(state) {
                for value in tables.states.values() {
                    if let StateValue::JobAggregate(aggregate) = value
                        && aggregate.job_id == job_id
                        && after.is_none_or(|after| aggregate.attempt > after)
                    {
                        found.entry((aggregate.attempt, lane)).or_insert(aggregate);
                    }
                }
            }
            let attempts: BTreeSet<Attempt> = found.keys().map(|(attempt, _)| *attempt).collect();
            let has_more = attempts.len() > limit;
            let end = attempts.into_iter().nth(limit);
            let found = found.into_iter().filter(|((attempt, _), _)| end.is_none_or(|end| *attempt < end));
            Ok(Page { rows: found.map(|(_, aggregate)| aggregate.clone()).collect(), has_more })
        })
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let count = |wanted: JobStatus| {
                let counted = all_states(state).filter_map(|(key, value)| match (key, value) {
                    (StateKey::StatusCount(status), StateValue::StatusCount(count)) if *status == wanted => {
                        Some(*count)
                    }
                    _ => None,
                });
                counted.reduce(|left, right| left + right)
            };
            let counts = JobStatus::ALL.into_iter();
            Ok(counts.filter_map(|status| count(status).map(|sum| (status, sum))).collect())
        })
    }

    fn audit_entries(&self, filter: AuditFilter) -> Reply<AuditPage, StoreError> {
        self.run_read(StoreCall::Query, move |state| Ok(audit_page(state, &filter)))
    }

    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let mut logs = Vec::new();
            for (lane, tables) in auditor_lanes(state) {
                let Some(StateValue::AuditLog(log)) = tables.states.get(&StateKey::AuditLog) else {
                    continue;
                };
                let log_id = memory_log().of_generation(tables.generation);
                logs.push(StoredAuditLog {
                    topic_partition: lane.topic_partition,
                    generation: tables.generation,
                    log_id: log_id.map_err(|error| StoreError::Broken(error.to_string()))?,
                    state: log.clone(),
                });
            }
            logs.sort_by_key(|log| (log.topic_partition, log.generation));
            Ok(logs)
        })
    }

    fn dead_letters(
        &self,
        group: Option<Group>,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let of_group = all_lanes(state)
                .into_iter()
                .filter(|(lane, _)| group.as_ref().is_none_or(|group| lane.group == *group));
            let letters = of_group
                .flat_map(|(lane, tables)| tables.dead_letters.values().map(move |kept| (lane, tables, kept)))
                .filter(|(lane, tables, kept)| {
                    after.as_ref().is_none_or(|after| {
                        (*lane, tables.generation, kept.letter.record.offset)
                            > (&after.lane, after.generation, after.offset)
                    })
                });
            let letters =
                letters.map(|(lane, tables, kept)| stored_dead_letter(lane, tables.generation, kept));
            Ok(Page::of(letters, limit))
        })
    }

    fn parked_keys_after(
        &self,
        after: Option<ParkedId>,
        limit: usize,
    ) -> Reply<Page<StoredParkedKey>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let keys = all_lanes(state)
                .into_iter()
                .flat_map(|(lane, tables)| tables.parked_keys.values().map(move |kept| (lane, tables, kept)));
            let keys = keys.filter(|(lane, tables, kept)| {
                after.as_ref().is_none_or(|after| {
                    (*lane, tables.generation, &kept.parked.key) > (&after.lane, after.generation, &after.key)
                })
            });
            Ok(Page::of(keys.map(|(lane, tables, kept)| stored_parked_key(lane, tables, kept)), limit))
        })
    }

    fn gaps_after(&self, after: Option<GapPosition>, limit: usize) -> Reply<Page<StoredGap>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let open = state.lanes.iter().filter_map(|(lane, tables)| {
                let gap = tables.gap?;
                Some(StoredGap { lane: lane.clone(), generation: tables.generation, gap, decision: None })
            });
            let listed = open.chain(state.decided_gaps.iter().rev().cloned());
            let is_behind = |gap: &StoredGap| match (&after, gap.position()) {
                (None, _) | (Some(GapPosition::Open(_)), GapPosition::Decided(_)) => true,
                (Some(GapPosition::Open(after)), GapPosition::Open(lane)) => lane > *after,
                (Some(GapPosition::Decided(after)), GapPosition::Decided(number)) => number < *after,
                (Some(GapPosition::Decided(_)), GapPosition::Open(_)) => false,
            };
            Ok(Page::of(listed.filter(is_behind), limit))
        })
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let lanes = all_lanes(state).into_iter().map(|(lane, tables)| {
                let progress = tables.progress();
                LaneProgress {
                    lane: lane.clone(),
                    generation: tables.generation,
                    next: progress.next,
                    epoch: progress.fence.epoch.0,
                    revision: progress.fence.revision.0,
                }
            });
            Ok(lanes.collect())
        })
    }

    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let held = state.lanes.iter().filter(|(_, tables)| tables.desired == DesiredState::Paused);
            let held = held.map(|(lane, tables)| HeldLane {
                lane: lane.clone(),
                generation: tables.generation,
                reason: tables.held_because.clone(),
            });
            Ok(held.collect())
        })
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        self.run_read(StoreCall::Query, move |state| Ok(state.outbox.record_ends()))
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            Ok(StoreUsage {
                used_bytes: state.outbox.weight_bytes(),
                limit_bytes: state.limit_bytes.unwrap_or(u64::MAX),
            })
        })
    }
}

/// Lists the lanes with those of generations that are over, in order of lane and generation.
fn all_lanes(state: &State) -> Vec<(&LaneKey, &LaneTables)> {
    let former = state.former_lanes.iter().map(|(lane, tables)| (lane, tables));
    let mut lanes: Vec<_> = former.chain(&state.lanes).collect();
    lanes.sort_by_key(|(lane, tables)| (*lane, tables.generation));
    lanes
}

/// Lists them with the newest generations first.
fn newest_first(state: &State) -> Vec<(&LaneKey, &LaneTables)> {
    let mut lanes = all_lanes(state);
    lanes.sort_by_key(|(_, tables)| std::cmp::Reverse(tables.generation));
    lanes
}

/// Gives the view of each job, of the newest generation that knows it.
fn newest_views(state: &State) -> BTreeMap<JobId, &JobView> {
    let mut views = BTreeMap::new();
    for (_, tables) in newest_first(state) {
        for value in tables.states.values() {
            if let StateValue::JobView(view) = value {
                views.entry(view.job_id.clone()).or_insert(view);
            }
        }
    }
    views
}

fn owned_job(row: &JobRow) -> ListedJob {
    ListedJob::Owned(Box::new(row.clone()))
}

fn external_job(view: &JobView) -> ListedJob {
    ListedJob::External(Box::new(view.clone()))
}

/// Walks the behaviours' rows of every lane.
fn all_states(state: &State) -> impl Iterator<Item = (&StateKey, &StateValue)> {
    all_lanes(state).into_iter().flat_map(|(_, tables)| tables.states.iter())
}

/// Walks the auditor's lanes: only they keep audit logs.
fn auditor_lanes(state: &State) -> impl Iterator<Item = (&LaneKey, &LaneTables)> {
    all_lanes(state).into_iter().filter(|(lane, _)| lane.group == Group::audit_trail())
}

fn audit_page(state: &State, filter: &AuditFilter) -> AuditPage {
    let is_wanted = |position: &AuditPosition, entry: &AuditEntry| {
        let TopicPartition { topic, partition } = position.topic_partition;
        let is_about_job = filter.job_id.as_ref().is_none_or(|job_id| {
            matches!(topic, Topic::JobLifecycle | Topic::JobMetrics)
                && entry.record.key.as_deref() == Some(job_id.as_str().as_bytes())
        });
        filter.topic.is_none_or(|wanted| topic == wanted)
            && filter.partition.is_none_or(|wanted| partition.0 == wanted)
            && filter.generation.is_none_or(|wanted| position.generation == wanted)
            && filter.after.is_none_or(|after| *position > after)
            && is_about_job
    };
    let mut found: Vec<(AuditPosition, &AuditEntry)> = Vec::new();
    for (lane, tables) in auditor_lanes(state) {
        let (topic_partition, generation) = (lane.topic_partition, tables.generation);
        let entries = tables.audit_entries.values();
        let placed =
            entries.map(|entry| (AuditPosition { topic_partition, generation, index: entry.index }, entry));
        found.extend(placed.filter(|(position, entry)| is_wanted(position, entry)));
    }
    found.sort_by_key(|(position, _)| *position);

    let found = found.into_iter().map(|(position, entry)| stored_audit_entry(position, entry));
    let page = Page::of(found, filter.limit);
    AuditPage { next: page.last().map(|entry| entry.position).filter(|_| page.has_more), entries: page.rows }
}

fn stored_audit_entry(position: AuditPosition, entry: &AuditEntry) -> StoredAuditEntry {
    StoredAuditEntry {
        position,
        leaf_hash: entry.leaf_hash,
        chain_hash: entry.chain_hash,
        mark: entry.mark.to_stored(),
        appended_at: entry.appended_at,
        record: Some(entry.record.clone()),
    }
}

fn stored_dead_letter(lane: &LaneKey, generation: Generation, kept: &KeptDeadLetter) -> StoredDeadLetter {
    let state = match kept.outcome {
        Some(DeadLetterOutcome::Released) => "released",
        Some(DeadLetterOutcome::Discarded) => "discarded",
        Some(DeadLetterOutcome::RejectedAgain(_)) | None if kept.letter.is_parked => "parked",
        Some(DeadLetterOutcome::RejectedAgain(_)) | None => "dead",
    };
    StoredDeadLetter {
        lane: lane.clone(),
        generation,
        record: kept.letter.record.clone(),
        reason: kept.letter.rejection.name().to_owned(),
        detail: kept.letter.rejection.to_string(),
        state: state.to_owned(),
        attempts: kept.attempts,
        rejected_at: kept.letter.rejected_at,
        updated_at: kept.updated_at,
    }
}

fn stored_parked_key(lane: &LaneKey, tables: &LaneTables, kept: &KeptParkedKey) -> StoredParkedKey {
    let parked = &kept.parked;
    StoredParkedKey {
        lane: lane.clone(),
        generation: tables.generation,
        key: parked.key.clone(),
        head: parked.head,
        reason: parked.rejection.name().to_owned(),
        detail: parked.rejection.to_string(),
        records: tables.parked_count(&parked.key),
        wish: kept.wish,
        parked_at: parked.parked_at,
    }
}

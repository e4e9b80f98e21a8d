//! The outbox as the relay sees it: lease, cursors, reading, setting aside, removal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::sample::{at, id, outgoing, partition, text};
use crate::command::{Command, CommandKind, Principal};
use crate::ids::{CommandId, CorrelationId, Epoch, LogTopic, Offset, Partition, Topic, TopicPartition};
use crate::ports::outbox::{
    Cursor, CursorMove, KEPT_SENT_ROWS, OutboxPartition, OutboxStore, RelayId, RelayLease, SetAsideAnswer,
    WantedRows,
};
use crate::ports::store::{JobStore, StoreError};
use crate::record::OutgoingRecord;

/// A store of which the relay's side is tested.
pub trait RelayedStore: OutboxStore + JobStore + 'static {}

impl<T: OutboxStore + JobStore + 'static> RelayedStore for T {}

const HERE: TopicPartition = partition(Topic::JobMetrics, 3);
const THERE: TopicPartition = partition(Topic::JobMetrics, 4);
const AUDIT: TopicPartition = partition(Topic::AuditTrail, 1);

/// The first relay.
const FIRST: RelayId = RelayId(Uuid::from_u128(1));

/// Its rival; where only one process can open the store, the same process started again.
const SECOND: RelayId = RelayId(Uuid::from_u128(2));

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3_600);

const fn of(partition: TopicPartition) -> OutboxPartition {
    OutboxPartition { topic: LogTopic::Record(partition.topic), partition: partition.partition }
}

async fn append(store: &impl RelayedStore, to: TopicPartition, count: usize) {
    let records = (0..count).map(|number| outgoing(to, &format!("{number}"))).collect();
    store.append_records(records, Vec::new()).await.expect("appended");
}

async fn take(store: &impl RelayedStore, holder: RelayId) -> RelayLease {
    let lease = store.take_lease(holder, LONG).await.expect("the lease can be asked for");
    lease.expect("nobody else holds the lease")
}

fn cursor(store: &impl RelayedStore, of: OutboxPartition) -> Cursor {
    let cursors = store.cursors().expect("cursors can be read");
    cursors.into_iter().find(|cursor| cursor.partition == of).expect("every partition has a cursor")
}

fn step(partition: OutboxPartition, from: u64, next: u64, tail: u64) -> CursorMove {
    CursorMove { partition, from: Offset(from), next: Offset(next), tail: Offset(tail) }
}

async fn advance(store: &impl RelayedStore, epoch: Epoch, moves: Vec<CursorMove>) -> Vec<OutboxPartition> {
    store.advance_cursors(epoch, moves).await.expect("cursors can be moved")
}

fn set_aside_command(partition: OutboxPartition, offset: Offset) -> Command {
    let OutboxPartition { topic, partition } = partition;
    Command {
        command_id: CommandId(Uuid::from_u128(91)),
        correlation_id: CorrelationId(Uuid::from_u128(92)),
        principal: Principal { user_id: id("operator") },
        reason: Some("too large".to_owned()),
        idempotency_key: None,
        requested_at: at(9),
        kind: CommandKind::SetAsideRecord { topic, partition, offset },
    }
}

/// The first lease finds a cursor at the start of every partition.
pub async fn take_lease_first_time_gives_every_cursor_at_start(store: Arc<impl RelayedStore>) {
    let lease = take(&*store, FIRST).await;

    let all: Vec<OutboxPartition> = lease.cursors.iter().map(|cursor| cursor.partition).collect();
    let mut wanted: Vec<OutboxPartition> = OutboxPartition::all().collect();
    wanted.sort();
    assert_eq!(all, wanted);
    let is_fresh = |cursor: &Cursor| cursor.next == Offset(0) && cursor.tail.is_none();
    assert!(lease.cursors.iter().all(|cursor| is_fresh(cursor) && cursor.epoch == lease.epoch));
    assert_eq!(store.cursors().expect("cursors can be read"), lease.cursors);
}

/// A new lease raises the epoch and keeps what the cursors say; the older owner moves nothing any more.
pub async fn take_lease_again_fences_older_epoch(store: Arc<impl RelayedStore>) {
    append(&*store, HERE, 5).await;
    let first = take(&*store, FIRST).await;
    assert!(advance(&*store, first.epoch, vec![step(of(HERE), 0, 2, 7)]).await.is_empty());

    store.release_lease(FIRST, first.epoch).await.expect("released");
    let second = take(&*store, SECOND).await;
    let refused = advance(&*store, first.epoch, vec![step(of(HERE), 2, 3, 8)]).await;
    let is_renewed = store.renew_lease(FIRST, first.epoch, LONG).await.expect("answered");

    assert!(second.epoch > first.epoch);
    assert_eq!(refused, [of(HERE)]);
    assert!(!is_renewed);
    let kept = cursor(&*store, of(HERE));
    assert_eq!((kept.next, kept.tail, kept.epoch), (Offset(2), Some(Offset(7)), second.epoch));
    assert!(store.renew_lease(SECOND, second.epoch, LONG).await.expect("answered"));
    store.release_lease(FIRST, first.epoch).await.expect("an old release changes nothing");
    assert!(store.renew_lease(SECOND, second.epoch, LONG).await.expect("answered"));
}

/// A cursor moves only from where it stands; the others of the same call move all the same.
pub async fn advance_cursors_from_elsewhere_is_refused_alone(store: Arc<impl RelayedStore>) {
    append(&*store, HERE, 5).await;
    append(&*store, THERE, 5).await;
    let lease = take(&*store, FIRST).await;

    let moves = vec![step(of(HERE), 1, 3, 9), step(of(THERE), 0, 4, 11)];
    let refused = advance(&*store, lease.epoch, moves).await;

    assert_eq!(refused, [of(HERE)]);
    assert_eq!((cursor(&*store, of(HERE)).next, cursor(&*store, of(HERE)).tail), (Offset(0), None));
    let moved = cursor(&*store, of(THERE));
    assert_eq!((moved.next, moved.tail), (Offset(4), Some(Offset(11))));
}

/// A step that goes nowhere records where in Kafka to look; a step back is a broken promise.
pub async fn advance_cursors_records_tail_and_never_goes_back(store: Arc<impl RelayedStore>) {
    append(&*store, HERE, 5).await;
    let lease = take(&*store, FIRST).await;

    assert!(advance(&*store, lease.epoch, vec![step(of(HERE), 0, 0, 30)]).await.is_empty());
    assert!(advance(&*store, lease.epoch, vec![step(of(HERE), 0, 5, 35)]).await.is_empty());
    let back = store.advance_cursors(lease.epoch, vec![step(of(HERE), 5, 4, 36)]).await;
    let tail_back = store.advance_cursors(lease.epoch, vec![step(of(HERE), 5, 5, 34)]).await;

    assert!(matches!(back, Err(StoreError::Broken(_))), "{back:?}");
    assert!(matches!(tail_back, Err(StoreError::Broken(_))), "{tail_back:?}");
    let kept = cursor(&*store, of(HERE));
    assert_eq!((kept.next, kept.tail), (Offset(5), Some(Offset(35))));
}

/// One call reads several partitions, dead letters too, each in its order and within its limit.
pub async fn read_outbox_several_partitions_within_limits(store: Arc<impl RelayedStore>) {
    let letters = OutboxPartition { topic: LogTopic::DeadLetter(Topic::JobMetrics), partition: Partition(3) };
    append(&*store, HERE, 4).await;
    append(&*store, THERE, 2).await;
    let letter = OutgoingRecord { topic: letters.topic, ..outgoing(HERE, "letter") };
    store.append_records(vec![letter], Vec::new()).await.expect("appended");
    let wanted = |partition, from, limit| WantedRows { partition, from: Offset(from), limit };

    let all =
        [wanted(letters, 0, 9), wanted(of(AUDIT), 0, 9), wanted(of(HERE), 1, 2), wanted(of(THERE), 1, 9)];
    let read = store.read_outbox(&all, usize::MAX).expect("rows can be read");
    let little = store.read_outbox(&all, 1).expect("rows can be read");
    let none = store.read_outbox(&[wanted(of(HERE), 4, 9)], usize::MAX).expect("rows can be read");

    let shown: Vec<(OutboxPartition, Vec<(u64, String)>)> = read
        .iter()
        .map(|rows| (rows.partition, rows.rows.iter().map(|row| (row.offset.0, text(row))).collect()))
        .collect();
    let wanted_rows = [
        (letters, vec![(0, "letter".to_owned())]),
        (of(HERE), vec![(1, "1".to_owned()), (2, "2".to_owned())]),
        (of(THERE), vec![(1, "1".to_owned())]),
    ];
    assert_eq!(shown, wanted_rows);
    assert_eq!(little.iter().map(|rows| rows.rows.len()).sum::<usize>(), 1);
    assert!(none.is_empty());
}

/// Dead letters raise ends and wake the relay as records do, before the writer answers.
pub async fn outbox_heads_follow_commits_of_dead_letters_too(store: Arc<impl RelayedStore>) {
    let letters = OutboxPartition { topic: LogTopic::DeadLetter(Topic::JobMetrics), partition: Partition(3) };
    let heads = store.outbox_heads();
    let told = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&told);
    heads.follow(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });

    let letter = OutgoingRecord { topic: letters.topic, ..outgoing(HERE, "letter") };
    store.append_records(vec![letter], vec![outgoing(AUDIT, "act")]).await.expect("appended");

    assert_eq!((heads.end(letters), heads.end(of(AUDIT))), (Offset(1), Offset(1)));
    assert!(told.load(Ordering::SeqCst) >= 1);
    let mut marks: Vec<_> = heads.take_marks().iter().map(|mark| (mark.partition, mark.end.0)).collect();
    marks.sort();
    assert_eq!(marks, [(of(AUDIT), 1), (letters, 1)]);
    store.refresh_heads().expect("ends can be read");
    assert_eq!(heads.end(letters), Offset(1));
}

/// What is set aside is kept whole, the cursor goes on behind it, and the act is in the audit trail.
pub async fn set_aside_at_cursor_keeps_record_and_moves_on(store: Arc<impl RelayedStore>) {
    append(&*store, HERE, 3).await;
    let lease = take(&*store, FIRST).await;
    assert!(advance(&*store, lease.epoch, vec![step(of(HERE), 0, 1, 21)]).await.is_empty());

    let command = set_aside_command(of(HERE), Offset(1));
    let answer = store.set_aside(command, of(HERE), Offset(1), outgoing(AUDIT, "act")).await;

    assert_eq!(answer.expect("answered"), SetAsideAnswer::Done);
    let kept = store.set_aside_records(9).await.expect("listed");
    let shown: Vec<_> = kept
        .iter()
        .map(|kept| (kept.partition, kept.record.offset.0, text(&kept.record), kept.set_aside_at))
        .collect();
    assert_eq!(shown, [(of(HERE), 1, "1".to_owned(), at(9))]);
    let cursor = cursor(&*store, of(HERE));
    assert_eq!((cursor.next, cursor.tail, cursor.epoch), (Offset(2), Some(Offset(21)), lease.epoch));
    assert_eq!(store.outbox_heads().end(of(AUDIT)), Offset(1));
    let refused = advance(&*store, lease.epoch, vec![step(of(HERE), 1, 2, 22)]).await;
    assert_eq!(refused, [of(HERE)], "the relay must learn that the cursor was moved");
}

/// A record that the cursor does not stand at is not touched.
pub async fn set_aside_elsewhere_writes_nothing(store: Arc<impl RelayedStore>) {
    append(&*store, HERE, 3).await;
    let lease = take(&*store, FIRST).await;
    assert!(advance(&*store, lease.epoch, vec![step(of(HERE), 0, 1, 21)]).await.is_empty());

    for offset in [0, 2, 3] {
        let command = set_aside_command(of(HERE), Offset(offset));
        let answer = store.set_aside(command, of(HERE), Offset(offset), outgoing(AUDIT, "act")).await;
        assert_eq!(answer.expect("answered"), SetAsideAnswer::NotAtCursor { next: Offset(1) });
    }
    let end = set_aside_command(of(THERE), Offset(0));
    let answer = store.set_aside(end, of(THERE), Offset(0), outgoing(AUDIT, "act")).await;
    assert_eq!(answer.expect("answered"), SetAsideAnswer::NotAtCursor { next: Offset(0) });

    assert!(store.set_aside_records(9).await.expect("listed").is_empty());
    assert_eq!(store.outbox_heads().end(of(AUDIT)), Offset(0));
}

/// Only rows far enough below their cursor go, oldest first, in pieces; and only for the owner.
pub async fn remove_sent_keeps_tail_and_everything_above_cursor(store: Arc<impl RelayedStore>) {
    let (rows, sent) = (KEPT_SENT_ROWS as usize + 60, KEPT_SENT_ROWS + 50);
    append(&*store, HERE, rows).await;
    append(&*store, THERE, rows).await;
    let lease = take(&*store, FIRST).await;
    assert!(advance(&*store, lease.epoch, vec![step(of(HERE), 0, sent, 1)]).await.is_empty());
    let first_kept = |of: OutboxPartition| {
        let wanted = [WantedRows { partition: of, from: Offset(0), limit: 1 }];
        let read = store.read_outbox(&wanted, usize::MAX).expect("rows can be read");
        read.first().and_then(|rows| rows.rows.first()).map(|row| row.offset.0)
    };

    let older = Epoch(lease.epoch.0 - 1);
    assert_eq!(store.remove_sent(older, 1_000).await.expect("answered"), 0);
    let pieces = [
        store.remove_sent(lease.epoch, 30).await.expect("removed"),
        store.remove_sent(lease.epoch, 30).await.expect("removed"),
        store.remove_sent(lease.epoch, 30).await.expect("removed"),
    ];

    assert_eq!(pieces, [30, 20, 0]);
    assert_eq!((first_kept(of(HERE)), first_kept(of(THERE))), (Some(50), Some(0)));
    append(&*store, HERE, 1).await;
    assert_eq!(store.outbox_heads().end(of(HERE)), Offset(rows as u64 + 1), "offsets go on without a hole");
}

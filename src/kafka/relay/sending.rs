//! Handing rows to the producer, taking its answers, and what follows a failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons_actors::ids::{LogTopic, Offset};
use horizons_actors::ports::outbox::{OutboxPartition, OutboxRows, WantedRows};
use horizons_actors::record::LogRecord;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::OwnedHeaders;

use super::inbox::{FromProducer, Mail};
use super::looking::{LookAnswer, LookRequest};
use super::partition::{Phase, Verdict};
use super::refusal::Refusal;
use super::run::{Leading, Relay};
use super::wire::header_name;
use crate::kafka::producer::{Delivery, IdempotentProducer, ProducedRecord, with_header};

/// Rows of one partition that one read takes: enough to fill batches, few enough to share the memory.
const ROWS_PER_READ: usize = 1_024;

/// Rows of all partitions that one read takes.
const ROWS_PER_ROUND: usize = 8_192;

/// Bytes that one read takes.
const BYTES_PER_READ: usize = 4 << 20;

/// Acknowledged rows of a partition whose cursor the store has not moved yet: above this nothing more is sent,
/// as all of them would have to be looked up after a crash.
const UNSTORED_ROWS_MAX: u64 = 100_000;

/// How long the answers of a producer are waited for before it is made anew.
const BREAK_LIMIT: Duration = Duration::from_secs(10);

/// How long the relay rests when no producer can be made.
const PRODUCER_REST: Duration = Duration::from_secs(1);

/// Bits of an offset in a ticket; as in the stored keys of the outbox.
const OFFSET_BITS: u32 = 40;

/// Packs a partition's place and an offset; 66 partitions and 40 bits of offset fit a 64-bit machine's word.
fn ticket(place: usize, offset: Offset) -> Option<usize> {
    let offset = usize::try_from(offset.0).ok().filter(|offset| *offset < 1 << OFFSET_BITS)?;
    Some((place << OFFSET_BITS) | offset)
}

/// Unpacks a ticket.
const fn of_ticket(ticket: usize) -> (usize, Offset) {
    (ticket >> OFFSET_BITS, Offset((ticket & ((1 << OFFSET_BITS) - 1)) as u64))
}

/// What became of a row that was to be handed over.
enum HandOver {
    Taken,
    /// The producer is full, or about to be made anew: nothing more now.
    Full,
    /// This partition goes no further now.
    PartitionEnds,
    /// The producer is broken.
    Broken,
}

impl Relay {
    /// Takes the times of commits.
    pub(super) fn take_marks(&mut self) {
        let marks = self.heads.take_marks();
        let Some(leading) = &mut self.leading else { return };
        for mark in marks {
            let place = leading.index.get(&mark.partition);
            if let Some(lane) = place.and_then(|place| leading.lanes.get_mut(*place)) {
                lane.times.note(mark.end, mark.committed_at);
            }
        }
    }

    /// Takes what others have put in.
    pub(super) fn take_mail(&mut self, mail: Mail, now: Instant) {
        let Mail { deliveries, looks, look_again, client_error, ending: _ } = mail;
        let has_deliveries = !deliveries.is_empty();
        for (number, delivery) in deliveries {
            self.take_delivery(number, delivery, now);
        }
        for look in looks {
            self.take_look(look, now);
        }
        if let Some(leading) = &mut self.leading {
            // Where the cursors stand is read first: what was set aside is not sent again.
            leading.asked.extend(look_again);
            leading.asked.sort_unstable();
            leading.asked.dedup();
        }
        // An acknowledgement tells more about the brokers than what the client complained of before.
        self.trouble = match client_error {
            Some(error) => Some(error),
            None if has_deliveries => None,
            None => self.trouble.take(),
        };
        self.finish_break(now);
    }

    fn take_delivery(&mut self, number: u64, delivery: Delivery, now: Instant) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.producer_number == number) else {
            return;
        };
        leading.unanswered = leading.unanswered.saturating_sub(1);
        let (place, offset) = of_ticket(delivery.ticket);
        let Some(lane) = leading.lanes.get_mut(place) else { return };
        let error = match delivery.outcome {
            Ok(at) => {
                if let Some(sent) = lane.state.acknowledged(offset, Offset(at), now) {
                    leading.in_flight_bytes = leading.in_flight_bytes.saturating_sub(sent.bytes);
                    lane.metrics.published.inc();
                    let took = now.saturating_duration_since(sent.committed_at);
                    lane.metrics.publish_seconds.observe(took.as_secs_f64());
                }
                lane.times.acknowledged(lane.state.next());
                return;
            }
            Err(error) => error,
        };
        let refusal = Refusal::of_error(&error);
        if is_of_producer(refusal.code()) {
            // The record is not at fault: it shares its producer with one that is.
            begin_break(leading, now);
            return;
        }
        let partition = lane.state.partition();
        self.metrics.count_failures(partition.topic, refusal.label(), 1);
        // A batch fails row by row; the first tells everything.
        if !std::mem::replace(&mut lane.has_failed, true) {
            let is_permanent = matches!(refusal, Refusal::Permanent(_));
            let verdict = lane.state.failed(offset, is_permanent, error.to_string(), now);
            tell(verdict, partition, offset, &error.to_string());
        }
        begin_break(leading, now);
    }

    fn take_look(&mut self, look: LookAnswer, now: Instant) {
        let LookAnswer { request, outcome } = look;
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.producer_number == request.round)
        else {
            return;
        };
        let Some(lane) = lane_of(leading, request.partition) else { return };
        match outcome {
            Ok(found) => {
                let skipped = lane.state.found(request.from, found.next, found.tail);
                if skipped > 0 {
                    tracing::info!(partition = %request.partition, skipped, "rows are in Kafka already");
                    lane.metrics.skipped.inc_by(skipped);
                }
            }
            Err(error) => {
                tracing::debug!(partition = %request.partition, %error, "failed to look into Kafka: tries again");
                self.metrics.count_failures(request.partition.topic, error.label(), 1);
                lane.state.look_failed(error.to_string(), now);
            }
        }
    }

    /// Makes the producer anew once its answers are in, or their time is over.
    fn finish_break(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else { return };
        let Some(until) = leading.breaking else { return };
        if leading.unanswered > 0 && now < until {
            return;
        }
        // Gone before anybody looks into Kafka: it can add nothing after that.
        drop(leading.producer.take());
        self.producers += 1;
        leading.producer_number = self.producers;
        leading.unanswered = 0;
        leading.in_flight_bytes = 0;
        leading.breaking = None;
        for lane in &mut leading.lanes {
            lane.state.rebuilt();
            lane.has_failed = false;
        }
        self.rebuilds += 1;
        self.metrics.count_rebuild();
        self.status_at = now;
    }

    /// Starts looks that are due, and hands rows over. Tells whether there is more to do at once.
    pub(super) fn send(&mut self, now: Instant) -> bool {
        if self.rest_until.is_some_and(|until| now < until) {
            return false;
        }
        self.rest_until = None;
        if !self.make_producer(now) {
            return false;
        }
        self.begin_looks(now);
        let Some(wanted) = self.wanted(now) else { return false };
        let read = match self.store.read_outbox(&wanted, self.readable_bytes()) {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "failed to read the outbox");
                self.trouble = Some(error.to_string());
                self.rest_until = Some(now + Duration::from_millis(200));
                return false;
            }
        };
        // Reading may have taken long: what the lease allowed before it may be over.
        let now = Instant::now();
        let Some(leading) =
            self.leading.as_mut().filter(|leading| self.lease.epoch(now) == Some(leading.epoch))
        else {
            return true;
        };
        leading.turn = leading.turn.wrapping_add(1);
        let mut has_sent = false;
        for rows in read {
            match hand_over_rows(leading, &rows, &self.metrics, now) {
                (sent, HandOver::Taken | HandOver::PartitionEnds) => has_sent |= sent,
                (_, HandOver::Full) => return false,
                (_, HandOver::Broken) => {
                    begin_break(leading, now);
                    return true;
                }
            }
        }
        has_sent
    }

    /// Tells whether there is a producer to send with.
    fn make_producer(&mut self, now: Instant) -> bool {
        let Some(leading) = &mut self.leading else { return false };
        if leading.breaking.is_some() || leading.producer_at.is_some_and(|at| now < at) {
            return false;
        }
        if leading.producer.is_some() {
            return true;
        }
        let sink = FromProducer { number: leading.producer_number, inbox: Arc::clone(&self.inbox) };
        match IdempotentProducer::new(&self.config.client, &self.config.producer, Arc::new(sink)) {
            Ok(producer) => {
                leading.producer = Some(producer);
                leading.producer_at = None;
                true
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.replace(text.clone()) != Some(text) {
                    tracing::error!(%error, "failed to make a producer: tries again");
                }
                leading.producer_at = Some(now + PRODUCER_REST);
                false
            }
        }
    }

    /// Asks for looks at partitions that have something to send.
    fn begin_looks(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else { return };
        let mut requests = Vec::new();
        for lane in &mut leading.lanes {
            let partition = lane.state.partition();
            if self.heads.end(partition) <= lane.state.next() {
                continue;
            }
            if let Some((from, tail)) = lane.state.begin_look(now) {
                requests.push(LookRequest { partition, from, tail, round: leading.producer_number });
            }
        }
        if !requests.is_empty() {
            self.looking.ask(requests);
        }
    }

    /// Lists the rows to be read now, beginning with another partition each time.
    fn wanted(&self, now: Instant) -> Option<Vec<WantedRows>> {
        let leading = self.leading.as_ref()?;
        let room = self.config.producer.max_records.saturating_sub(leading.unanswered);
        if room == 0 || self.readable_bytes() == 0 {
            return None;
        }
        let ends = self.heads.ends();
        let begin = leading.turn % leading.lanes.len().max(1);
        let (after, before) = leading.lanes.split_at_checked(begin)?;
        let mut left = room.min(ROWS_PER_ROUND);
        let mut wanted = Vec::new();
        for lane in before.iter().chain(after) {
            let state = &lane.state;
            let end = ends.get(&state.partition()).copied().unwrap_or_default();
            let is_held = state.must_store_first() || state.unstored_rows() > UNSTORED_ROWS_MAX;
            let rows = usize::try_from(end.0.saturating_sub(state.unsent().0)).unwrap_or(usize::MAX);
            let limit = state.may_send(rows.min(ROWS_PER_READ).min(left), now);
            if is_held || limit == 0 {
                continue;
            }
            left -= limit;
            wanted.push(WantedRows { partition: state.partition(), from: state.unsent(), limit });
        }
        (!wanted.is_empty()).then_some(wanted)
    }

    fn readable_bytes(&self) -> usize {
        let held = self.leading.as_ref().map_or(0, |leading| leading.in_flight_bytes);
        self.config.producer.max_bytes.saturating_sub(held).min(BYTES_PER_READ)
    }
}

pub(super) fn lane_of(leading: &mut Leading, partition: OutboxPartition) -> Option<&mut super::run::Lane> {
    let place = leading.index.get(&partition).copied()?;
    leading.lanes.get_mut(place)
}

/// Tells whether a code is about the producer as a whole.
const fn is_of_producer(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::GaplessGuarantee
    )
}

/// Stops handing over, and gives up what is not on its way: what follows the failed row must not overtake it.
fn begin_break(leading: &mut Leading, now: Instant) {
    if leading.breaking.is_some() {
        return;
    }
    leading.breaking = Some(now + BREAK_LIMIT);
    if let Some(producer) = &leading.producer {
        if let Some(fatal) = producer.fatal_error() {
            tracing::warn!(error = %fatal, "the producer is broken: another is made");
        }
        producer.purge_queue();
    }
}

/// Tells once what a person must know.
fn tell(verdict: Verdict, partition: OutboxPartition, offset: Offset, error: &str) {
    match verdict {
        Verdict::Stopped => tracing::error!(
            %partition,
            %offset,
            error,
            "Kafka refuses a record for good: its partition stands until the record is set aside"
        ),
        Verdict::Doubt => {
            tracing::warn!(%partition, %offset, error, "Kafka refused a batch: its records are tried one by one");
        }
        Verdict::Again => {
            tracing::warn!(%partition, %offset, error, "a record was not delivered: it is tried again");
        }
    }
}

/// Hands a partition's rows over, in their order.
fn hand_over_rows(
    leading: &mut Leading,
    rows: &OutboxRows,
    metrics: &super::RelayMetrics,
    now: Instant,
) -> (bool, HandOver) {
    let mut has_sent = false;
    for row in &rows.rows {
        match hand_over(leading, rows.partition, row, metrics, now) {
            HandOver::Taken => has_sent = true,
            end => return (has_sent, end),
        }
    }
    (has_sent, HandOver::Taken)
}

fn hand_over(
    leading: &mut Leading,
    partition: OutboxPartition,
    row: &LogRecord,
    metrics: &super::RelayMetrics,
    now: Instant,
) -> HandOver {
    let Some(place) = leading.index.get(&partition).copied() else { return HandOver::PartitionEnds };
    let (Some(lane), Some(producer)) = (leading.lanes.get_mut(place), &leading.producer) else {
        return HandOver::Full;
    };
    let Some(ticket) = ticket(place, row.offset).filter(|_| row.offset == lane.state.unsent()) else {
        tracing::error!(%partition, wanted = %lane.state.unsent(), got = %row.offset, "the outbox lacks a record");
        lane.state.paused_at_hand_over(format!("the outbox lacks record {}", lane.state.unsent()), now);
        return HandOver::PartitionEnds;
    };
    let mut headers = OwnedHeaders::new();
    for (name, value) in row.headers.iter() {
        headers = with_header(headers, &header_name(name), value);
    }
    let handed = producer.send(ProducedRecord {
        topic: &lane.topic,
        partition: i32::from(partition.partition.0),
        timestamp_ms: row.timestamp.as_millis(),
        key: row.key.as_deref(),
        payload: row.payload.as_deref(),
        headers,
        ticket,
    });
    let Err(error) = handed else {
        // A row of before, or of another process, counts from now on.
        let committed_at = lane.times.of(row.offset).unwrap_or(now);
        let bytes = row.weight_bytes();
        lane.metrics.record_bytes.observe(record_bytes(row) as f64);
        lane.state.sent(row.offset, bytes, row.timestamp, committed_at);
        leading.unanswered += 1;
        leading.in_flight_bytes += bytes;
        return HandOver::Taken;
    };
    let refusal = Refusal::of_error(&error);
    if refusal.code() == RDKafkaErrorCode::QueueFull {
        return HandOver::Full;
    }
    metrics.count_failures(partition.topic, refusal.label(), 1);
    match refusal {
        Refusal::Permanent(_) => {
            let verdict = lane.state.refused_at_hand_over(error.to_string());
            tell(verdict, partition, row.offset, &error.to_string());
            HandOver::PartitionEnds
        }
        Refusal::Missing(_) => {
            lane.state.paused_at_hand_over(error.to_string(), now);
            HandOver::PartitionEnds
        }
        Refusal::Transient(_) => {
            tracing::warn!(%partition, %error, "the producer takes nothing: another is made");
            HandOver::Broken
        }
    }
}

/// Gives what a row measures, as limits count it.
fn record_bytes(row: &LogRecord) -> usize {
    row.key.as_ref().map_or(0, |key| key.len())
        + row.headers.as_block().len()
        + row.payload.as_ref().map_or(0, |payload| payload.len())
}

/// Tells whether a partition is stopped, for the status.
pub(super) const fn is_stopped(phase: &Phase) -> bool {
    matches!(phase, Phase::Stopped { .. })
}

/// Sums waiting and stopped per topic.
pub(super) fn add_topic(topics: &mut Vec<(LogTopic, u64, u64)>, topic: LogTopic, waiting: u64, stopped: u64) {
    match topics.iter_mut().find(|(named, _, _)| *named == topic) {
        Some((_, all_waiting, all_stopped)) => {
            *all_waiting += waiting;
            *all_stopped += stopped;
        }
        None => topics.push((topic, waiting, stopped)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ticket_any_parts_round_trips(place in 0_usize..66, offset in 0_u64..(1 << OFFSET_BITS)) {
            let packed = ticket(place, Offset(offset)).unwrap();

            prop_assert_eq!(of_ticket(packed), (place, Offset(offset)));
        }
    }

    #[test]
    fn ticket_offset_too_large_is_none() {
        assert_eq!(ticket(1, Offset(1 << OFFSET_BITS)), None);
    }
}

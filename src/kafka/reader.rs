//! A group's reader: one thread that polls the client, cuts batches and hands them on (design D4).
//!
//! Promises that the thread never waits for whoever takes the records: what cannot be handed on is held for
//! at most [`HOLD_LIMIT`], then its partition alone is no longer fetched, and polling goes on; that whatever
//! is asked is seen at once; and that it sleeps while nothing happens. The client's own pause and seek are not
//! used: a partition leaves the client's assignment and enters it again at an explicit offset, so that nothing
//! depends on where the client believes to be.
//!
//! *Source*: research, rules E2 to E6 and the table of known bugs. Taking a partition out of the assignment
//! while the group has already decided on a revocation that was not polled yet makes the client answer that
//! revocation at once; the lanes then stop a moment late, and the store's fence covers it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ids::{Offset, TopicPartition};
use horizons_actors::lane::credit::CreditPool;
use horizons_actors::lane::guard::guard;
use horizons_actors::record::{LogRecord, RecordBatch};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::batch::Cut;
use super::commits::Positions;
use super::config::{BatchLimits, KafkaConfig};
use super::context::GroupContext;
use super::doubts::Doubts;
use super::error::is_unreadable;
use super::holdings::{Delivery, Holdings, Plan, Taken};
use super::inspector::Inspector;
use super::names::TopicNames;
use super::record::record_of;
use super::shared::{Change, Command, Inputs, Shared};

/// How long a batch may wait for its records.
const BATCH_WAIT: Duration = Duration::from_millis(1);

/// Records between two looks at the clock.
const RECORDS_PER_LOOK: u32 = 16;

/// How long the reader holds a batch that cannot be handed on before it stops to fetch the partition: that
/// throws away what was read ahead, so it must be rare (design D4).
const HOLD_LIMIT: Duration = Duration::from_millis(200);

/// How long the reader waits before it offers a batch again that its dispatcher could not take.
const OFFER_AGAIN: Duration = Duration::from_millis(2);

/// How long the reader waits after a call to the client failed.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How long the reader sleeps at most: the client rings when it has something, so this only bounds the harm of
/// a bug, and keeps the member's polls far below their limit.
const SLEEP_LIMIT: Duration = Duration::from_millis(250);

/// How often positions are told to lag tools.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How often one and the same error of the client is logged.
const LOG_AGAIN: Duration = Duration::from_secs(10);

/// The reader thread's own state.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) consumer: Arc<BaseConsumer<GroupContext>>,
    pub(super) names: TopicNames,
    pub(super) config: KafkaConfig,
    pub(super) credits: Arc<CreditPool>,
    pub(super) inspector: Arc<Inspector>,
    pub(super) limits: BatchLimits,
    pub(super) holdings: Holdings,
    pub(super) positions: Positions,
    /// The errors that were logged, and when.
    pub(super) logged: Vec<(RDKafkaErrorCode, Instant)>,
    /// Since when no rebalance has happened.
    pub(super) quiet_since: Instant,
    pub(super) doubts: Doubts,
}

/// What a round ended with.
enum Round {
    /// There may be more: look again at once.
    Busy,
    /// Nothing can be done until something changes, or that time is over.
    Idle(Duration),
    /// A batch was handed back: what its credit rang does not count.
    HandedBack,
    /// The reader was asked to end.
    Closed,
    /// The group has no place for this member.
    ShutOut(String),
}

/// How the delivery of a partition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Delivered,
    NoCredit,
    HandedBack,
}

/// What polling ended with.
enum Polled {
    /// The client has nothing more.
    Empty,
    /// There may be more.
    More,
    ShutOut(String),
}

impl Reader {
    /// Starts the thread.
    ///
    /// *Errors*: when no thread can be started.
    pub(super) fn start(self) -> std::io::Result<()> {
        let name = format!("reader-{}", self.shared.group);
        let thread = std::thread::Builder::new().name(name.clone());
        thread.spawn(move || self.run(&heartbeat::register(name))).map(drop)
    }

    /// Runs until the reader is closed or shut out.
    fn run(mut self, heartbeat: &Heartbeat) {
        // A revocation waits for lanes, which is within a round.
        let round_limit = self.consumer.context().rebalance_wait() * 2;
        loop {
            heartbeat.works_at_most("a round", round_limit);
            let seen = self.shared.bell.rings();
            // A panic is the dispatcher's or the library's; the thread must outlive it, or the group would stall.
            let round = guard(|| self.round()).unwrap_or_else(|panic| {
                tracing::error!(group = %self.shared.group, error = %panic, "reader panicked: it reads on");
                Round::Idle(TRY_AGAIN)
            });
            heartbeat.waits("the log");
            match round {
                Round::Busy => {}
                Round::Idle(limit) => self.shared.bell.wait(seen, limit),
                Round::HandedBack => self.shared.bell.wait(self.shared.bell.rings(), OFFER_AGAIN),
                Round::Closed => break,
                Round::ShutOut(reason) => {
                    self.shut_out(&reason);
                    break;
                }
            }
        }
        heartbeat.waits("the client to close");
        self.end();
    }

    fn round(&mut self) -> Round {
        if self.take_inputs() {
            return Round::Closed;
        }
        self.face_holes();
        let is_applied = self.apply_plan();
        self.deliver_waiting();
        let now = Instant::now();
        let hold_ends_at = self.holdings.hold_ends_at(HOLD_LIMIT);
        if let Some(at) = hold_ends_at
            && at > now
        {
            // Unpolled for a moment: the prefetch stays, and credit that comes back rings.
            self.send_positions();
            return Round::Idle((at - now).min(OFFER_AGAIN * 5));
        }
        if hold_ends_at.is_some() {
            self.holdings.pause_held(now, HOLD_LIMIT);
            tracing::debug!(group = %self.shared.group, paused = self.holdings.paused().len(), "partitions paused");
            return Round::Busy;
        }
        let polled = self.poll_some();
        // The hook may have taken partitions away: what waits of them is dropped first.
        if self.take_inputs() {
            return Round::Closed;
        }
        if matches!(polled, Polled::Empty) {
            self.doubt_silence();
        }
        let flow = self.deliver_waiting();
        self.send_positions();
        match polled {
            Polled::ShutOut(reason) => Round::ShutOut(reason),
            Polled::More => Round::Busy,
            Polled::Empty if flow == Flow::HandedBack => Round::HandedBack,
            Polled::Empty if !is_applied => Round::Idle(TRY_AGAIN),
            Polled::Empty => Round::Idle(SLEEP_LIMIT),
        }
    }

    /// Takes what was asked and what the hook changed; tells whether the reader is to end.
    fn take_inputs(&mut self) -> bool {
        let Inputs { findings, is_survey_over, changes, commands, positions, is_closing } =
            self.shared.take_inputs();
        for change in changes {
            self.quiet_since = Instant::now();
            match change {
                Change::Assigned(partitions) => self.holdings.assigned(&partitions),
                Change::Gone(partitions) => {
                    self.holdings.gone(&partitions);
                    self.positions.forget(&partitions);
                }
            }
        }
        for command in commands {
            match command {
                Command::Start(partition, incarnation, from) => {
                    self.holdings.start(partition, incarnation, from);
                }
                Command::Stop(partition, incarnation) => self.holdings.stop(partition, incarnation),
            }
        }
        for (partition, next) in positions {
            if self.shared.owns(partition) {
                self.positions.note(partition, next);
            }
        }
        for finding in findings {
            self.take_finding(finding);
        }
        if is_survey_over {
            self.doubts.survey_over(Instant::now());
        }
        is_closing
    }

    /// Makes the client fetch what is wanted; tells whether it does.
    fn apply_plan(&mut self) -> bool {
        let mut plan = self.holdings.plan();
        if self.doubts.is_resting(Instant::now()) {
            plan.enter.clear();
        }
        if plan.is_empty() {
            return true;
        }
        if self.consumer.assignment_lost() {
            // The hook comes next, and nothing of this counts any more.
            return false;
        }
        match self.tell_client(&plan) {
            // A position of before would be taken for one of now ([`Reader::doubt_silence`]).
            Ok(()) if self.knows_position_of_before(&plan) => false,
            Ok(()) => {
                self.holdings.applied(&plan);
                true
            }
            Err(error) => {
                tracing::warn!(group = %self.shared.group, error = %error, "failed to change what is fetched: tries again");
                false
            }
        }
    }

    fn tell_client(&self, plan: &Plan) -> Result<(), KafkaError> {
        let fetched = self.names.read(&self.consumer.assignment()?);
        let is_leaving = |one: &TopicPartition| {
            plan.leave.contains(one) || plan.enter.iter().any(|(entering, _)| entering == one)
        };
        let leaving: Vec<TopicPartition> = fetched.into_iter().filter(is_leaving).collect();
        if !leaving.is_empty() {
            let list = self.names.list(leaving.into_iter().map(|one| (one, KafkaOffset::Invalid)));
            self.consumer.incremental_unassign(&list)?;
        }
        if plan.enter.is_empty() {
            return Ok(());
        }
        self.consumer.incremental_assign(&self.at_offsets(&plan.enter))
    }

    fn at_offsets(&self, offsets: &[(TopicPartition, Offset)]) -> TopicPartitionList {
        // Kafka's own offsets are signed: none is above.
        let raw = |offset: Offset| KafkaOffset::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX));
        self.names.list(offsets.iter().map(|(partition, offset)| (*partition, raw(*offset))))
    }

    /// Takes records off the client until it has none, a batch is full or has waited long enough.
    fn poll_some(&mut self) -> Polled {
        let started = Instant::now();
        let mut until_look = RECORDS_PER_LOOK;
        let mut found_nothing = 0;
        loop {
            let calls = self.consumer.context().calls();
            let taken = match self.consumer.poll(Duration::ZERO) {
                None if self.consumer.context().calls() == calls => return Polled::Empty,
                // It called back instead: a rebalance is looked at before more is taken.
                None if found_nothing > 0 => return Polled::More,
                None => {
                    found_nothing += 1;
                    continue;
                }
                Some(Err(error)) => match self.failed(&error) {
                    Some(reason) => return Polled::ShutOut(reason),
                    None => return Polled::More,
                },
                Some(Ok(message)) => {
                    let partition = self.names.find(message.topic(), message.partition());
                    let offset = u64::try_from(message.offset()).map(Offset);
                    match (partition, offset) {
                        (Some(partition), Ok(offset)) if self.holdings.wants(partition, offset) => {
                            record_of(&message)
                                .map(|record| (partition, self.holdings.take(partition, record, self.limits)))
                        }
                        _ => None,
                    }
                }
            };
            if let Some((partition, Taken::Full)) = taken
                && self.deliver(partition) != Flow::Delivered
            {
                return Polled::More;
            }
            until_look -= 1;
            if until_look == 0 {
                until_look = RECORDS_PER_LOOK;
                if started.elapsed() >= BATCH_WAIT {
                    return Polled::More;
                }
            }
        }
    }

    /// Hands on what waits, as far as it is taken.
    fn deliver_waiting(&mut self) -> Flow {
        for partition in self.holdings.passing() {
            self.deliver_passed(partition);
        }
        let mut waiting = self.holdings.waiting();
        for partition in self.holdings.paused() {
            if !waiting.contains(&partition) {
                waiting.push(partition);
            }
        }
        let mut all = Flow::Delivered;
        for partition in waiting {
            match self.deliver(partition) {
                Flow::Delivered => {}
                Flow::HandedBack => all = Flow::HandedBack,
                Flow::NoCredit if all == Flow::Delivered => all = Flow::NoCredit,
                Flow::NoCredit => {}
            }
        }
        all
    }

    /// Hands on what waits of one partition, as far as credit goes.
    fn deliver(&mut self, partition: TopicPartition) -> Flow {
        let flow = loop {
            if !self.holdings.is_waiting(partition) {
                self.holdings.flowing(partition, self.credits.is_half_free(partition));
                return Flow::Delivered;
            }
            let (records, bytes) = self.credits.available(partition);
            if records == 0 || bytes == 0 {
                break Flow::NoCredit;
            }
            let limits = BatchLimits {
                records: records.min(self.limits.records),
                bytes: bytes.min(self.limits.bytes),
            };
            let Some(delivery) = self.holdings.deliver(partition, limits) else { break Flow::NoCredit };
            if let Err((delivery, flow)) = self.hand_on(partition, delivery) {
                self.holdings.take_back(partition, delivery);
                break flow;
            }
        };
        self.holdings.held_back(partition, Instant::now());
        flow
    }

    /// Hands on a position without records; it waits without holding anything back.
    fn deliver_passed(&mut self, partition: TopicPartition) {
        if let Some(delivery) = self.holdings.deliver_passed(partition)
            && let Err((delivery, _)) = self.hand_on(partition, delivery)
        {
            self.holdings.take_back(partition, delivery);
        }
    }

    fn hand_on(&self, partition: TopicPartition, delivery: Delivery) -> Result<(), (Delivery, Flow)> {
        let Delivery { incarnation, from, next, cut } = delivery;
        let Some(credit) = self.credits.try_take(partition, cut.records.len(), cut.bytes) else {
            return Err((Delivery { incarnation, from, next, cut }, Flow::NoCredit));
        };
        let Cut { records, bytes } = cut;
        let last = records.last().map(|record| (record.offset, LogRecord::fingerprint(record)));
        let batch = RecordBatch {
            topic_partition: partition,
            incarnation,
            from,
            next,
            records,
            log_end: self.shared.end(partition).max(next),
            credit,
        };
        match self.shared.sink.read(batch) {
            Ok(()) => {
                self.shared.mark(partition, incarnation, next, last);
                Ok(())
            }
            Err(batch) => {
                let cut = Cut { records: batch.records, bytes };
                Err((Delivery { incarnation, from, next, cut }, Flow::HandedBack))
            }
        }
    }

    /// Looks at an error of the client; gives why the member is shut out, if it is.
    fn failed(&mut self, error: &KafkaError) -> Option<String> {
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            return Some(format!("{code}: {reason}"));
        }
        let code = error.rdkafka_error_code()?;
        self.logged.retain(|(_, at)| at.elapsed() < LOG_AGAIN);
        if !self.logged.iter().any(|(known, _)| *known == code) {
            self.logged.push((code, Instant::now()));
            tracing::warn!(group = %self.shared.group, error = %error, "the log reports an error");
        }
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                // It does not say which partition: all look again.
                for (partition, incarnation) in self.holdings.started() {
                    self.shared.tell_broken(partition, incarnation);
                }
            }
            code if is_unreadable(code) => self.doubt_everything(code),
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopicId => {
                self.shared.tell_health(Err(error.to_string()));
                self.inspector.recheck_soon();
            }
            _ => {}
        }
        None
    }

    /// Sends positions when they are due and no rebalance has happened lately.
    ///
    /// *Source*: research, rule E4 and librdkafka #4059: commits stay out of rebalances.
    fn send_positions(&mut self) {
        if self.quiet_since.elapsed() >= COMMIT_INTERVAL
            && let Some(offsets) = self.positions.due(Instant::now(), COMMIT_INTERVAL)
        {
            self.commit(&offsets);
        }
    }

    fn commit(&self, offsets: &[(TopicPartition, Offset)]) {
        match self.consumer.commit(&self.at_offsets(offsets), CommitMode::Async) {
            Ok(()) => {
                tracing::debug!(group = %self.shared.group, partitions = offsets.len(), "positions sent");
            }
            Err(error) => {
                tracing::debug!(group = %self.shared.group, error = %error, "failed to send positions");
            }
        }
    }

    /// Lets go because the group has no place for this member any more.
    fn shut_out(&mut self, reason: &str) {
        tracing::error!(group = %self.shared.group, error = reason, "reader is shut out of its group");
        let lost = self.shared.disown(&self.shared.owned());
        self.shared.shut_out(reason);
        if !lost.is_empty() {
            self.shared.sink.lost(lost);
        }
    }

    /// Sends the last positions, leaves the group, and tells who waits for it.
    fn end(mut self) {
        self.consumer.context().set_closing();
        // They leave before the client does.
        if !self.consumer.assignment_lost()
            && let Some(offsets) = self.positions.due(Instant::now(), Duration::ZERO)
        {
            self.commit(&offsets);
        }
        let Self { shared, consumer, .. } = self;
        // Leaves the group, and has been seen to hang: nobody waits for it longer than they want to.
        drop(consumer);
        shared.ended();
    }
}

//! A write in the making: hands out sequences and keeps row and events in step.
//!
//! Promises that sequences are dense, that a transition is always the pair of events, `job.status_changed`
//! first, and that the expectation is the row as it was read.

use crate::clock::Timestamp;
use crate::command::{Order, OrderKind};
use crate::event::{Event, JobMetricsRecorded, JobStatus, JobStatusChanged, Payload};
use crate::ids::{EventId, Sequence};
use crate::orchestrator::{Context, Decision, Refusal};
use crate::ports::scheduler::AttemptSample;
use crate::ports::store::{Idempotency, JobExpectation, JobRow, JobWrite, OrderAnswer, OutgoingEvent};

/// One transition of a job.
pub(super) struct Step {
    /// The new status.
    pub(super) to: JobStatus,
    /// When it happened.
    pub(super) at: Timestamp,
    /// Whether another attempt follows.
    pub(super) will_retry: bool,
    /// The event that confirms it.
    pub(super) typed: Payload,
}

/// A [`JobWrite`] in the making.
pub(super) struct Draft<'a> {
    context: &'a Context<'a>,
    write: JobWrite,
}

impl<'a> Draft<'a> {
    /// Starts a write that creates `row`.
    pub(super) fn create(row: JobRow, context: &'a Context<'a>) -> Self {
        Self::new(row, JobExpectation::New, context)
    }

    /// Starts a write that changes `row`.
    pub(super) fn change(row: &JobRow, context: &'a Context<'a>) -> Self {
        let expectation =
            JobExpectation::Sequences { lifecycle: row.lifecycle_sequence, metrics: row.metrics_sequence };
        Self::new(JobRow { updated_at: context.now, ..row.clone() }, expectation, context)
    }

    fn new(row: JobRow, expectation: JobExpectation, context: &'a Context<'a>) -> Self {
        let write = JobWrite {
            expectation,
            row,
            events: Vec::new(),
            orders: Vec::new(),
            answered: Vec::new(),
            idempotency: None,
        };
        Self { context, write }
    }

    /// Gives the row as it will be.
    pub(super) fn row(&self) -> &JobRow {
        &self.write.row
    }

    /// Gives the row as it will be, to change what no event tells.
    pub(super) fn row_mut(&mut self) -> &mut JobRow {
        &mut self.write.row
    }

    /// Publishes a lifecycle event in the name of the job's owner.
    pub(super) fn lifecycle(&mut self, payload: Payload) -> Result<(), Refusal> {
        let sequence = self.write.row.lifecycle_sequence.following();
        self.write.row.lifecycle_sequence = sequence;
        self.job_event(sequence, payload)
    }

    /// Goes to another status: publishes the pair.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Refusal> {
        let Step { to, at, will_retry, typed } = step;
        let changed = JobStatusChanged {
            previous_status: self.write.row.status,
            current_status: to,
            status_changed_timestamp: at,
            attempt: self.write.row.attempt,
            will_retry,
        };
        self.write.row.status = to;
        self.write.row.will_retry = will_retry;
        self.lifecycle(Payload::JobStatusChanged(changed))?;
        self.lifecycle(typed)
    }

    /// Publishes the samples that are not published yet.
    ///
    /// *Errors*: [`Refusal::Illegal`] when one is missing before them.
    pub(super) fn samples(&mut self, samples: &[AttemptSample]) -> Result<(), Refusal> {
        for sample in samples {
            let next = self.write.row.samples_published;
            if sample.index < next {
                continue;
            }
            if sample.index > next {
                let reason = format!("wanted sample {next} next, got {}", sample.index);
                return Err(Refusal::Illegal { state: self.write.row.status, reason });
            }
            self.metrics(JobMetricsRecorded {
                cpu_usage_percent: measured(sample.cpu_usage_percent),
                memory_usage_mb: measured(sample.memory_usage_mb),
                io_operations: sample.io_operations,
                execution_time_seconds: measured(sample.execution_time_seconds),
                attempt: self.write.row.attempt,
                summary: false,
            })?;
            self.write.row.samples_published = next + 1;
        }
        Ok(())
    }

    /// Publishes a metrics event in the name of the job's owner.
    pub(super) fn metrics(&mut self, metrics: JobMetricsRecorded) -> Result<(), Refusal> {
        let sequence = self.write.row.metrics_sequence.following();
        self.write.row.metrics_sequence = sequence;
        self.job_event(sequence, Payload::JobMetricsRecorded(metrics))
    }

    fn job_event(&mut self, sequence: Sequence, payload: Payload) -> Result<(), Refusal> {
        let row = &self.write.row;
        self.publish(Event {
            event_id: EventId(self.context.randomness.next_uuid()),
            timestamp: self.context.now,
            correlation_id: row.correlation_id,
            user_id: row.user_id.clone(),
            job_id: Some(row.job_id.clone()),
            sequence: Some(sequence),
            payload,
        })
    }

    /// Publishes an event as it is.
    pub(super) fn publish(&mut self, event: Event) -> Result<(), Refusal> {
        let mut record = (self.context.encode)(&event)?;
        if let Some(partition) = self.write.row.home.of(event.topic()) {
            record.partition = partition;
        }
        self.write.events.push(OutgoingEvent { event, record });
        Ok(())
    }

    /// Orders work on the job's attempt.
    pub(super) fn order(&mut self, kind: OrderKind) {
        let order = self.order_of(kind);
        self.write.orders.push(order);
    }

    /// Answers an order about the job's attempt.
    pub(super) fn answer(&mut self, kind: OrderKind, answer: OrderAnswer) {
        let order = self.order_of(kind);
        self.write.answered.push((order, answer));
    }

    fn order_of(&self, kind: OrderKind) -> Order {
        Order {
            job_id: self.write.row.job_id.clone(),
            attempt: self.write.row.attempt,
            kind,
            ordered_at: self.context.now,
        }
    }

    /// Makes a repeated request the same job.
    pub(super) fn idempotency(&mut self, idempotency: Option<Idempotency>) {
        self.write.idempotency = idempotency;
    }

    /// Ends the draft.
    pub(super) fn finish(self) -> Decision {
        Decision::Write(Box::new(self.write))
    }
}

/// Gives a measurement as it can be published. What is no number or below zero cannot be; such a value shows
/// a fault of the measurement, and 0 stands for it so that it never holds up the job's events.
pub(super) fn measured(value: f64) -> f64 {
    if value.is_finite() && value > 0.0 { value } else { 0.0 }
}

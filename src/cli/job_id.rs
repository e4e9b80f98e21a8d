//! Job ids as a person gives them: whole, or shortened to a beginning that no other job's id has.
//!
//! Promises that an id is first asked by as it is given, so that a whole one costs nothing more and one that is whole
//! is never taken for the beginning of a longer one.

use horizons_actors::ids::{BEGINNING_MIN_CHARS, IdError, JobIdBeginning, UuidText};
use serde_json::Value;

use crate::shown::shown;

use super::client::{Answer, Call, Client, ClientError, percent_encoded};
use super::hint;
use super::output::cell;

/// Jobs that are shown where several are meant.
const SHOWN_MAX: usize = 10;

/// A job that is asked about.
#[derive(Debug)]
pub(super) struct AskedJob {
    id: String,
    /// Whether it was found out what the id stands for.
    is_settled: bool,
}

impl AskedJob {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), is_settled: false }
    }

    /// Gives the id; once something was answered, it is the whole one.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Sends a request about the job; it is given the job's path. Where there is no such job, the one is asked about
    /// whose id begins so.
    ///
    /// *Errors*: those of [`Client::call`], and [`ClientError::SeveralJobs`].
    pub(super) async fn call<'a>(
        &mut self,
        client: &Client,
        request: impl Fn(&str) -> Call<'a>,
    ) -> Result<Answer, ClientError> {
        let path = |id: &str| format!("/jobs/{}", percent_encoded(id));
        match client.call(request(&path(&self.id))).await {
            Err(error) if error.is_not_found() && !self.is_settled => {
                match whole_id(client, &self.id).await? {
                    Some(id) => self.id = id,
                    None => return Err(error),
                }
                self.is_settled = true;
                client.call(request(&path(&self.id))).await
            }
            answer => {
                self.is_settled |= answer.is_ok();
                answer
            }
        }
    }
}

/// Looks for the one job whose id begins so; none where nothing does, or where that is a job's whole id.
async fn whole_id(client: &Client, asked: &str) -> Result<Option<String>, ClientError> {
    if UuidText::of(asked) != UuidText::None {
        return Ok(None);
    }
    match JobIdBeginning::parse(asked) {
        Ok(_) => {}
        Err(error) => {
            if matches!(error, IdError::TooShort(_)) {
                hint(&format!("a job id may be shortened to {BEGINNING_MIN_CHARS} characters, not further"));
            }
            return Ok(None);
        }
    }
    let call = Call::get("/jobs").query("id_beginning", Some(asked)).query("limit", Some(SHOWN_MAX + 1));
    let page = client.call(call).await?;
    let jobs = page.rows();
    let is_all = page.next().is_none();
    let id = |job: &Value| job.get("job_id").and_then(Value::as_str).map(str::to_owned);
    match jobs.as_slice() {
        [] => Ok(None),
        jobs if jobs.iter().any(|job| id(job).is_some_and(|id| id == asked)) => Ok(None),
        [job] if is_all => Ok(id(job)),
        jobs => Err(ClientError::SeveralJobs { asked: asked.to_owned(), jobs: lines(jobs, is_all) }),
    }
}

/// Writes jobs that begin alike, one a line.
fn lines(jobs: &[Value], is_all: bool) -> String {
    let shown_jobs = jobs.iter().take(SHOWN_MAX);
    let width = shown_jobs.clone().map(|job| cell(job, "job_id").chars().count()).max().unwrap_or_default();
    let line = |job: &Value| {
        let [id, status, submitted] = ["job_id", "status", "submitted_at"].map(|field| cell(job, field));
        format!("\n  {}  {status:<9}  submitted {submitted}", shown(&format!("{id:width$}")))
    };
    let mut text: String = shown_jobs.map(line).collect();
    if jobs.len() > SHOWN_MAX || !is_all {
        text.push_str("\n  and more");
    }
    text
}

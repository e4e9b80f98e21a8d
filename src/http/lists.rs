//! Turns at lists: what all answers with many rows may take of the process together.
//!
//! Promises that no more lists are read, written as JSON and sent at once than there are turns, so that their memory
//! is bounded; who waits too long for a turn is sent away with 503 and told when to come back. A turn is held until
//! the answer is sent or its connection is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::http::StatusCode;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use warp::reply::{Reply as _, Response};

use super::error::{ApiError, RETRY_AFTER_DEFAULT};

/// Bytes that are handed over for sending at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The turns of a server.
#[derive(Debug)]
pub(super) struct Lists {
    turns: Arc<Semaphore>,
    wait: Duration,
}

impl Lists {
    pub(super) fn new(turns: usize, wait: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(turns)), wait }
    }

    /// Waits for a turn.
    ///
    /// *Errors*: `Busy` when none came free in time.
    pub(super) async fn turn(&self) -> Result<ListTurn, ApiError> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned()).await;
        match turn {
            Ok(turn) => Ok(ListTurn { _permit: turn.expect("the semaphore is never closed") }),
            Err(_) => Err(ApiError::Busy {
                retry_after: RETRY_AFTER_DEFAULT,
                reason: "too many lists are read at once".to_owned(),
            }),
        }
    }
}

/// A turn at a list.
#[derive(Debug)]
pub(super) struct ListTurn {
    _permit: OwnedSemaphorePermit,
}

impl ListTurn {
    /// Answers with JSON; the turn ends when it is sent.
    pub(super) fn answer(self, body: &Value) -> Response {
        let bytes = Bytes::from(body.to_string());
        let length = bytes.len();
        let chunks = futures_util::stream::unfold((bytes, self), |(mut rest, turn)| async move {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            (!chunk.is_empty()).then_some((Ok::<_, std::io::Error>(chunk), (rest, turn)))
        });
        let mut answer = warp::reply::stream(chunks).into_response();
        *answer.status_mut() = StatusCode::OK;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turn_held_until_the_answer_is_gone_sends_others_away() {
        let lists = Lists::new(1, Duration::from_secs(2));

        let answer = lists.turn().await.unwrap().answer(&serde_json::json!({}));
        let second = lists.turn().await;
        drop(answer);
        let third = lists.turn().await;

        assert!(matches!(second, Err(ApiError::Busy { .. })), "{second:?}");
        assert!(third.is_ok());
    }
}

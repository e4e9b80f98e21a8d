//! A client of its own, so that the tests do not lean on the program's.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// No answer of these tests takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Gives the job's id of an answer that holds a job.
    pub(crate) fn job_id(&self) -> String {
        self.json()["job"]["job_id"].as_str().unwrap_or_else(|| panic!("no job: {self:?}")).to_owned()
    }
}

/// Speaks to one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) SocketAddr);

impl Client {
    /// Sends a request and reads the whole answer; an answer that breaks off is an error.
    pub(crate) fn send(
        self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&self.0, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.0);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        // A server may refuse a body before it has read it; then its answer counts, not the broken pipe.
        let written = stream.write_all(body.unwrap_or_default());
        let mut bytes = Vec::new();
        match (stream.read_to_end(&mut bytes), written) {
            (Err(error), _) if bytes.is_empty() => return Err(error),
            (_, Err(error)) if bytes.is_empty() => return Err(error),
            _ => {}
        }
        parse(&bytes)
    }

    pub(crate) fn get(self, target: &str) -> Answer {
        self.send("GET", target, &[], None).unwrap()
    }

    pub(crate) fn post(self, target: &str, body: &Value) -> Result<Answer> {
        self.send("POST", target, &[], Some(body.to_string().as_bytes()))
    }

    pub(crate) fn submit(self, key: &str, agent: &str, dataset: &str) -> Result<Answer> {
        let body = json!({ "agent": agent, "dataset_id": dataset });
        self.send("POST", "/jobs", &[("idempotency-key", key)], Some(body.to_string().as_bytes()))
    }

    pub(crate) fn cancel(self, job_id: &str) -> Result<Answer> {
        self.post(&format!("/jobs/{job_id}/cancel"), &json!({ "reason": "the test says so" }))
    }

    /// Appends one record.
    pub(crate) fn append(
        self,
        topic: &str,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: Value,
    ) -> Result<Answer> {
        let record = json!({
            "key_base64": key.map(|key| BASE64.encode(key)),
            "value_base64": BASE64.encode(payload),
            "headers": headers,
        });
        self.post(&format!("/topics/{topic}/records"), &json!({ "records": [record] }))
    }

    /// Says what is wanted of a parked key: `release` or `discard`.
    pub(crate) fn wish(self, wish: &str, group: &str, partition: u64, key: &str) -> Result<Answer> {
        let body = json!({
            "group": group, "topic": "job-lifecycle", "partition": partition,
            "key_base64": BASE64.encode(key), "reason": "the test says so",
        });
        self.post(&format!("/parked/{wish}"), &body)
    }
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let broken = || Error::new(ErrorKind::UnexpectedEof, "the answer broke off");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = &bytes[end + 4..];
    let length = headers.iter().find(|(name, _)| name == "content-length");
    if length.is_some_and(|(_, length)| length.parse() != Ok(body.len())) {
        return Err(broken());
    }
    let text = String::from_utf8(body.to_vec()).unwrap();
    Ok(Answer { status: status.ok_or_else(broken)?, headers, text })
}

//! Limits on clients, connections and shutdown.

use std::time::Duration;

use horizons::http::{HttpLimits, ServeError, Served};
use horizons_actors::testkit::{Fault, StoreCall, wait_until};

use super::world::{LIMIT, World};

const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn connection_is_kept_for_several_requests() {
    let world = World::start().await;
    let mut connection = world.connect().await;

    connection.write(LIVE).await;
    let first = connection.read(true).await;
    connection.write(&[LIVE, LIVE].concat()).await;
    let second = connection.read(true).await;
    let third = connection.read(true).await;

    assert_eq!([first.status, second.status, third.status], [200, 200, 200]);
    assert_eq!(first.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!(first.header("server"), None);
    assert_ne!(first.header("x-correlation-id"), second.header("x-correlation-id"));
}

#[tokio::test]
async fn headers_that_do_not_arrive_cut_the_connection() {
    let limits = HttpLimits { header_read_timeout: Duration::from_millis(100), ..HttpLimits::default() };
    let world = World::with_limits(limits).await;
    let mut half = world.connect().await;
    let mut silent = world.connect().await;
    let mut idle = world.connect().await;

    half.write(b"GET /live HTTP/1.1\r\nHost: local").await;
    idle.write(LIVE).await;
    let answered = idle.read(true).await;

    assert_eq!(answered.status, 200);
    assert!(!String::from_utf8(half.read_to_end().await).unwrap().starts_with("HTTP/1.1 200"));
    assert!(!String::from_utf8(silent.read_to_end().await).unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(idle.read_to_end().await, b"");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let world = World::start().await;
    let mut connection = world.connect().await;

    let header = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200 << 10));
    connection.write(header.as_bytes()).await;
    let answer = String::from_utf8(connection.read_to_end().await).unwrap();

    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn connections_over_the_limit_are_sent_away_but_for_probes() {
    let world = World::with_limits(HttpLimits { connections: 1, ..HttpLimits::default() }).await;
    let mut first = world.connect().await;
    first.write(LIVE).await;
    first.read(true).await;

    let list = world.get("/jobs").await;
    let probes = [world.get("/live").await, world.get("/ready").await, world.get("/metrics").await];
    drop(first);
    let later = loop {
        let answer = world.get("/jobs").await;
        if answer.status != 503 {
            break answer;
        }
    };

    assert_eq!(
        (list.status, list.header("retry-after"), list.header("connection")),
        (503, Some("1"), Some("close"))
    );
    assert_eq!(probes.map(|answer| answer.status), [200, 200, 200]);
    assert_eq!((later.status, later.header("connection")), (200, None));
}

#[tokio::test]
async fn lists_wait_for_a_turn_and_are_sent_away_after_a_while() {
    let limits = HttpLimits { lists: 1, list_wait: Duration::from_millis(50), ..HttpLimits::default() };
    let world = World::with_limits(limits).await;
    world.store.faults().script(StoreCall::Query, Fault::Hang);
    let mut held = world.connect().await;
    held.write(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n").await;

    let refused = loop {
        let answer = world.get("/dead-letters").await;
        if answer.status == 503 {
            break answer;
        }
    };
    let live = world.get("/live").await;
    drop(held);

    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(live.status, 200);
}

#[tokio::test]
async fn shutdown_lets_open_requests_end_and_closes_idle_connections() {
    let mut world = World::start().await;
    let mut idle = world.connect().await;
    idle.write(LIVE).await;
    idle.read(true).await;
    let mut busy = world.connect().await;
    let head = "POST /jobs/j/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    busy.write(head.as_bytes()).await;
    let leave = busy.read(false).await;

    world.stop.take().unwrap().send(()).unwrap();
    assert_eq!(idle.read_to_end().await, b"");
    busy.write(b"{}").await;
    let answer = busy.read(true).await;

    assert_eq!((leave.status, answer.status), (100, 202));
    let served = tokio::time::timeout(LIMIT, world.server).await.unwrap().unwrap().unwrap();
    assert_eq!(served, Served { cut_connections: 0 });
    assert!(tokio::net::TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_requests_that_do_not_end() {
    let limits = HttpLimits { shutdown_timeout: Duration::from_millis(50), ..HttpLimits::default() };
    let mut world = World::with_limits(limits).await;
    world.script(|script| script.hangs = true);
    let mut hanging = world.connect().await;
    let request = "POST /jobs/j/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                   Content-Length: 2\r\n\r\n{}";
    hanging.write(request.as_bytes()).await;
    wait_until("the command to arrive", LIMIT, || world.command_count() == 1).await;

    world.stop.take().unwrap().send(()).unwrap();
    let served = tokio::time::timeout(LIMIT, world.server).await.unwrap().unwrap().unwrap();

    assert_eq!(served, Served { cut_connections: 1 });
    assert_eq!(hanging.read_to_end().await, b"");
}

#[tokio::test]
async fn garbage_is_refused_and_others_are_served() {
    let world = World::start().await;
    let mut garbage = world.connect().await;

    garbage.write(b"\x16\x03\x01 not HTTP at all\r\n\r\n").await;
    let answer = garbage.read_to_end().await;

    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"));
    assert_eq!(world.get("/live").await.status, 200);
}

#[tokio::test]
async fn listener_open_to_others_is_not_served() {
    let world = World::start().await;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();

    let served = world.serve_again(listener).await;

    assert!(matches!(served, Err(ServeError::NotLoopback(_))), "{served:?}");
}

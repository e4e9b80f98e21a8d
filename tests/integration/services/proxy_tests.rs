//! The proxy of faults, between a client and an echo of our own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::proxy::{Cut, Direction, FaultProxy, Faults, Swallow, contains};
use super::wait::{WAIT_LIMIT, wait_for};

/// So long a client waits for what must not come.
const SILENCE: Duration = Duration::from_millis(150);

/// A server that sends back what it gets, and remembers it.
struct Echo {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicUsize>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicUsize::new(0));
        let (all, ends) = (Arc::clone(&got), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, all, ends) = (stream.unwrap(), Arc::clone(&all), Arc::clone(&ends));
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count) = stream.read(&mut buffer)
                        && count > 0
                    {
                        all.lock().unwrap().extend_from_slice(&buffer[..count]);
                        // The client may be gone; what it sent counts all the same.
                        let _sent = stream.write_all(&buffer[..count]);
                    }
                    ends.fetch_add(1, Ordering::AcqRel);
                });
            }
        });
        Self { address, got, ended }
    }

    fn got(&self) -> Vec<u8> {
        self.got.lock().unwrap().clone()
    }
}

/// A proxy in front of an echo, and a client of it that has spoken once.
fn world() -> (Echo, FaultProxy, TcpStream) {
    let echo = Echo::start();
    let proxy = FaultProxy::in_front_of(echo.address);
    let client = client_of(&proxy);
    (echo, proxy, client)
}

fn client_of(proxy: &FaultProxy) -> TcpStream {
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
    client.set_nodelay(true).unwrap();
    assert_eq!(ask(&mut client, b"hello"), b"hello");
    client
}

/// Sends bytes and reads as many.
fn ask(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    client.read_exact(&mut answer).unwrap();
    answer
}

/// How a read ends for a client whose connection was cut: with what, after which bytes.
fn read_to_end(client: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    let end = client.read_to_end(&mut all).err().map(|error| error.kind());
    (all, end)
}

/// Whether nothing comes for a while.
fn is_silent(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let silent = matches!(client.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    client.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
    silent
}

#[test]
fn proxy_left_alone_passes_bytes_and_ends_through() {
    let (echo, proxy, mut client) = world();
    let many: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut writer = client.try_clone().unwrap();
    let sent = many.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });

    let (answer, end) = read_to_end(&mut client);

    writing.join().unwrap();
    assert_eq!(end, None);
    assert_eq!(answer, many);
    assert_eq!(proxy.bytes(Direction::Up), many.len() + 5);
    assert_eq!(proxy.bytes(Direction::Down), many.len() + 5);
    wait_for("the echo to see the end", || echo.ended.load(Ordering::Acquire) == 1);
    wait_for("the proxy to forget it", || proxy.connections() == 0);
}

#[test]
fn proxy_with_latency_delays_each_way() {
    let (_echo, proxy, mut client) = world();
    let latency = Duration::from_millis(60);
    proxy.set(Faults { latency, ..Faults::default() });

    let started = Instant::now();
    ask(&mut client, b"slow");
    let slow = started.elapsed();
    proxy.heal();
    let started = Instant::now();
    ask(&mut client, b"fast");

    assert!(slow >= latency * 2, "{slow:?}");
    assert!(started.elapsed() < latency, "{:?}", started.elapsed());
}

#[test]
fn proxy_with_a_narrow_way_takes_its_time() {
    let (_echo, proxy, mut client) = world();
    proxy.set(Faults { bytes_per_second: Some(20_000), ..Faults::default() });

    let started = Instant::now();
    let answer = ask(&mut client, &[7; 8_000]);

    assert_eq!(answer, [7; 8_000]);
    // 0.4 s up; the way down overlaps with it.
    assert!(started.elapsed() >= Duration::from_millis(350), "{:?}", started.elapsed());
}

#[test]
fn proxy_with_tiny_segments_delivers_all_bytes_in_order() {
    let (echo, proxy, mut client) = world();
    proxy.set(Faults { segment_bytes: Some(1), ..Faults::default() });
    let text: Vec<u8> = (0..=255).cycle().take(5_000).collect();

    let answer = ask(&mut client, &text);

    assert_eq!(answer, text);
    assert_eq!(echo.got()[5..], text);
}

#[test]
fn cut_by_reset_is_a_reset_and_new_connections_work() {
    let (_echo, proxy, mut client) = world();

    proxy.cut(Cut::Reset);

    assert_eq!(read_to_end(&mut client), (vec![], Some(ErrorKind::ConnectionReset)));
    client_of(&proxy);
    assert_eq!(proxy.accepted(), 2);
}

#[test]
fn cut_by_close_is_an_orderly_end() {
    let (echo, proxy, mut client) = world();

    proxy.cut(Cut::Close);

    assert_eq!(read_to_end(&mut client), (vec![], None));
    wait_for("the echo to see the end", || echo.ended.load(Ordering::Acquire) == 1);
}

#[test]
fn cut_half_open_ends_the_server_and_tells_the_client_nothing() {
    let (echo, proxy, mut client) = world();

    proxy.cut(Cut::HalfOpen);
    client.write_all(b"is anybody there").unwrap();

    wait_for("the echo to see the end", || echo.ended.load(Ordering::Acquire) == 1);
    assert!(is_silent(&mut client));
    assert_eq!(echo.got(), b"hello");
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn refusal_is_a_refusal_until_healed_and_leaves_connections_alone() {
    let (_echo, proxy, mut client) = world();
    proxy.set(Faults { refuse: true, ..Faults::default() });

    let refused = TcpStream::connect(proxy.address()).unwrap_err().kind();

    assert_eq!(refused, ErrorKind::ConnectionRefused);
    assert_eq!(ask(&mut client, b"still here"), b"still here");
    proxy.heal();
    client_of(&proxy);
}

#[test]
fn black_hole_swallows_and_resets_what_lost_bytes_once_healed() {
    let (echo, proxy, mut client) = world();
    proxy.set(Faults { swallow: Swallow::Both, ..Faults::default() });

    client.write_all(b"lost").unwrap();
    let mut late = TcpStream::connect(proxy.address()).unwrap();
    late.write_all(b"lost too").unwrap();

    assert!(is_silent(&mut client));
    assert!(is_silent(&mut late));
    assert_eq!(echo.got(), b"hello");
    proxy.heal();
    client.write_all(b"more").unwrap();
    assert_eq!(read_to_end(&mut client), (vec![], Some(ErrorKind::ConnectionReset)));
    client_of(&proxy);
}

#[test]
fn swallowed_answers_leave_the_server_with_the_request() {
    let (echo, proxy, mut client) = world();
    proxy.set(Faults { swallow: Swallow::Down, ..Faults::default() });

    client.write_all(b"do it").unwrap();

    wait_for("the request to arrive", || echo.got() == b"hellodo it");
    assert!(is_silent(&mut client));
}

#[test]
fn swallowed_requests_leave_answers_their_way() {
    let (echo, proxy, mut client) = world();
    proxy.set(Faults { latency: Duration::from_millis(50), ..Faults::default() });
    client.write_all(b"in time").unwrap();
    wait_for("the request to arrive", || echo.got() == b"helloin time");

    // Its answer is under way.
    proxy.set(Faults { swallow: Swallow::Up, ..Faults::default() });
    client.write_all(b"too late").unwrap();

    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"in time");
    assert!(is_silent(&mut client));
    assert_eq!(echo.got(), b"helloin time");
}

#[test]
fn held_bytes_arrive_when_healed() {
    let (echo, proxy, mut client) = world();
    proxy.set(Faults { hold: true, ..Faults::default() });

    client.write_all(b"later").unwrap();

    assert!(is_silent(&mut client));
    assert_eq!(echo.got(), b"hello");
    proxy.heal();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"later");
}

#[test]
fn cut_after_bytes_lets_exactly_so_many_arrive() {
    let (echo, proxy, mut client) = world();
    proxy.cut_after(Direction::Up, 7, Cut::Reset);

    client.write_all(b"1234").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    client.write_all(b"56789").unwrap();
    let (_, end) = read_to_end(&mut client);

    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    wait_for("the echo to see the end", || echo.ended.load(Ordering::Acquire) == 1);
    assert_eq!(echo.got(), b"hello1234567");
    assert_eq!(proxy.fired(), 1);
}

#[test]
fn cut_before_a_word_keeps_its_piece_back_even_when_it_comes_in_parts() {
    let (echo, proxy, mut client) = world();
    proxy.cut_before(Direction::Up, |bytes| contains(bytes, b"COMMIT"), Cut::Close);

    assert_eq!(ask(&mut client, b"BEGIN COM"), b"BEGIN COM");
    client.write_all(b"MIT now").unwrap();

    assert_eq!(read_to_end(&mut client), (vec![], None));
    assert_eq!(echo.got(), b"helloBEGIN COM");
    assert_eq!(proxy.fired(), 1);
}

#[test]
fn cut_behind_a_word_delivers_it_and_no_answer() {
    let (echo, proxy, mut client) = world();
    proxy.cut_behind(Direction::Up, |bytes| contains(bytes, b"COMMIT"), Cut::Reset);

    client.write_all(b"COMMIT").unwrap();

    assert_eq!(read_to_end(&mut client), (vec![], Some(ErrorKind::ConnectionReset)));
    wait_for("the word to arrive", || echo.got() == b"helloCOMMIT");
    client_of(&proxy);
    assert_eq!(proxy.fired(), 1, "it fires once");
}

#[test]
fn proxy_with_nowhere_to_send_to_resets() {
    let proxy = FaultProxy::new();

    let mut client = TcpStream::connect(proxy.address()).unwrap();

    assert!(matches!(read_to_end(&mut client), (bytes, Some(_)) if bytes.is_empty()));
    proxy.forward_to(Echo::start().address);
    client_of(&proxy);
}

#[test]
fn proxy_dropped_ends_its_connections_and_frees_its_port() {
    let (_echo, proxy, mut client) = world();
    let address = proxy.address();

    drop(proxy);

    assert!(matches!(read_to_end(&mut client), (bytes, _) if bytes.is_empty()));
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

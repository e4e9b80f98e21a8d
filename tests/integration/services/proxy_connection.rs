//! One connection through the fault proxy.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::proxy::{Cut, Direction, Orders, Shared, Trigger, When};

/// Read at once at most.
const PIECE_BYTES: usize = 64 * 1024;

/// How many bytes before a piece a predicate sees.
const LOOK_BACK_BYTES: usize = 256;

/// Pieces under way at most: beyond that the sender is slowed down, as by a full window.
const PIECES_UNDER_WAY: usize = 1_024;

/// A socket, and a second handle for what can be done to it while others read and write.
struct Side {
    stream: TcpStream,
    control: StdStream,
}

impl Side {
    fn new(stream: TcpStream) -> io::Result<Self> {
        // Small segments must leave as they are.
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let control = stream.try_clone()?;
        Ok(Self { stream: TcpStream::from_std(stream)?, control })
    }
}

/// Why a connection ends.
enum End {
    /// Both sides closed.
    Done,
    /// A side broke off: so does the other.
    Broken,
    /// The proxy was told to.
    Cut(Cut),
}

/// What goes from reader to writer.
enum Piece {
    Bytes { due: Instant, bytes: Vec<u8> },
    Cut(Cut),
}

/// Counts itself among the open connections until dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves a client until one side, or the proxy, ends it.
pub(super) async fn serve(client: TcpStream, orders: watch::Receiver<Orders>, shared: Arc<Shared>) {
    let first_cuts = orders.borrow().cuts.0;
    let Some(target) = orders.borrow().target else { return reset(&client) };
    let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
    shared.open.fetch_add(1, Ordering::AcqRel);
    let open = Open(Arc::clone(&shared));
    let (Ok(client), Ok(server)) = (Side::new(client), Side::new(server)) else { return };

    let muted = AtomicBool::new(false);
    let up = Way { direction: Direction::Up, from: &client, to: &server, muted: &muted, shared: &shared };
    let down = Way { direction: Direction::Down, from: &server, to: &client, muted: &muted, shared: &shared };
    let end = tokio::select! {
        end = both(up.run(orders.clone()), down.run(orders.clone())) => end,
        how = told_to_cut(orders, first_cuts) => End::Cut(how),
    };

    match end {
        End::Done | End::Cut(Cut::Close) => {}
        End::Broken | End::Cut(Cut::Reset) => reset(&client.stream),
        End::Cut(Cut::HalfOpen) => {
            drop(server);
            drop(open);
            swallow_all(&client.stream).await;
        }
    }
}

/// Both ways must be done; any other end is that of both.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) -> End {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        end = &mut up => if let End::Done = end { down.await } else { end },
        end = &mut down => if let End::Done = end { up.await } else { end },
    }
}

/// Ends when all connections are cut.
async fn told_to_cut(mut orders: watch::Receiver<Orders>, first: u64) -> Cut {
    match orders.wait_for(|orders| orders.cuts.0 > first).await {
        Ok(orders) => orders.cuts.1,
        // The proxy is gone, and its runtime with it at once.
        Err(_) => Cut::Reset,
    }
}

/// Lets the client see a reset when the socket is dropped, not an orderly end.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().expect("a socket's linger can be set");
}

/// Takes what a client sends, until it gives up.
async fn swallow_all(client: &TcpStream) {
    let mut buffer = vec![0; PIECE_BYTES];
    while matches!(read(client, &mut buffer).await, Ok(count) if count > 0) {}
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One way of a connection.
struct Way<'a> {
    direction: Direction,
    from: &'a Side,
    to: &'a Side,
    /// Nothing arrives any more, either way: the connection is about to be cut.
    muted: &'a AtomicBool,
    shared: &'a Shared,
}

impl Way<'_> {
    async fn run(&self, orders: watch::Receiver<Orders>) -> End {
        let (pieces, under_way) = mpsc::channel(PIECES_UNDER_WAY);
        let reading = self.read_on(pieces, orders.clone());
        let writing = self.write_on(under_way, orders);
        let (read, end) = tokio::join!(reading, writing);
        if read.is_err() { End::Broken } else { end }
    }

    /// Reads until the end, and decides what becomes of each piece.
    async fn read_on(
        &self,
        pieces: mpsc::Sender<Piece>,
        mut orders: watch::Receiver<Orders>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut seen = VecDeque::new();
        let mut has_lost = false;
        loop {
            let count = read(&self.from.stream, &mut buffer).await?;
            let faults = orders.borrow().faults;
            let is_lost = faults.swallow.takes(self.direction) || self.muted.load(Ordering::Acquire);
            if count == 0 {
                // A black hole takes the end as well. When the proxy is gone, so is this connection.
                let _healed = orders.wait_for(|orders| !orders.faults.swallow.takes(self.direction)).await;
                return Ok(());
            }
            if is_lost {
                has_lost = true;
                continue;
            }
            if has_lost {
                // What follows a gap in a stream is no protocol any more.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let mut bytes = buffer[..count].to_vec();
            self.flip(&mut bytes);
            let cut = self.cut_by_trigger(&mut seen, &mut bytes);
            let due = Instant::now() + faults.latency;
            // A writer that is gone has told why.
            if !bytes.is_empty() && pieces.send(Piece::Bytes { due, bytes }).await.is_err() {
                return Ok(());
            }
            if let Some(how) = cut {
                let _told = pieces.send(Piece::Cut(how)).await;
                return Ok(());
            }
        }
    }

    /// Writes what is due, as fast and in such segments as allowed. Passes an orderly end on.
    async fn write_on(&self, mut pieces: mpsc::Receiver<Piece>, mut orders: watch::Receiver<Orders>) -> End {
        while let Some(piece) = pieces.recv().await {
            let (due, bytes) = match piece {
                Piece::Bytes { due, bytes } => (due, bytes),
                Piece::Cut(how) => return End::Cut(how),
            };
            tokio::time::sleep_until(due).await;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let Ok(faults) = orders.wait_for(|orders| !orders.faults.hold).await.map(|now| now.faults)
                else {
                    return End::Broken;
                };
                let limit = faults.segment_bytes.unwrap_or(rest.len());
                // A tenth of a second's bytes at once, so that a narrow way is not a series of bursts.
                let allowed =
                    faults.bytes_per_second.map_or(limit, |rate| limit.min((rate as usize / 10).max(1)));
                let (now, later) = rest.split_at(allowed.clamp(1, rest.len()));
                if let Some(rate) = faults.bytes_per_second {
                    tokio::time::sleep(Duration::from_secs_f64(now.len() as f64 / f64::from(rate.max(1))))
                        .await;
                } else if faults.segment_bytes.is_some() {
                    // Others get their turn between two segments.
                    tokio::task::yield_now().await;
                }
                if write_all(&self.to.stream, now).await.is_err() {
                    return End::Broken;
                }
                self.shared.bytes(self.direction).fetch_add(now.len(), Ordering::AcqRel);
                rest = later;
            }
        }
        if self.to.control.shutdown(Shutdown::Write).is_ok() { End::Done } else { End::Broken }
    }

    /// Changes a byte of a piece, if that is what is wanted and the place comes by.
    fn flip(&self, bytes: &mut [u8]) {
        if self.direction != Direction::Down {
            return;
        }
        let mut wanted = self.shared.flip.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let place = wanted.as_ref().and_then(|wanted| {
            let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
            Some(at + wanted.len() - 1)
        });
        if let Some(byte) = place.and_then(|place| bytes.get_mut(place)) {
            *byte ^= 0x01;
            *wanted = None;
        }
    }

    /// Looks whether the trigger fires at this piece; shortens the piece to what still arrives.
    fn cut_by_trigger(&self, seen: &mut VecDeque<u8>, bytes: &mut Vec<u8>) -> Option<Cut> {
        let mut trigger = self.shared.trigger();
        seen.extend(bytes.iter());
        let (how, arrive) = match trigger.as_mut() {
            Some(Trigger { direction, when, how }) if *direction == self.direction => match when {
                When::AfterBytes(left) if bytes.len() >= *left => (Some(*how), *left),
                When::AfterBytes(left) => {
                    *left -= bytes.len();
                    (None, bytes.len())
                }
                When::Before(is_such) if is_such(seen.make_contiguous()) => (Some(*how), 0),
                When::After(is_such) if is_such(seen.make_contiguous()) => (Some(*how), bytes.len()),
                When::Before(_) | When::After(_) => (None, bytes.len()),
            },
            _ => (None, bytes.len()),
        };
        if how.is_some() {
            *trigger = None;
            // Before the bytes leave: their answer must not slip through.
            self.muted.store(true, Ordering::Release);
            self.shared.fired.fetch_add(1, Ordering::AcqRel);
        }
        bytes.truncate(arrive);
        let too_many = seen.len().saturating_sub(LOOK_BACK_BYTES);
        seen.drain(..too_many);
        how
    }
}

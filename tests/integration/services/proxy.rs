//! A TCP proxy that brings faults, in front of any port on loopback.
//!
//! It passes everything through until told otherwise, and is told at run time: slow, narrow, in tiny pieces,
//! swallowed, half-open, cut at once, cut after so many bytes or when certain bytes come by, refused. What it
//! is told holds for the connections that exist and for those that come. It has a thread of its own and ends
//! on drop, with all its connections.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::proxy_connection::serve;
use super::wait::wait_for;

/// Ports below those that the system gives to outgoing connections: nobody takes one while it is closed.
const PORTS: std::ops::Range<u16> = 10_240..30_240;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What becomes of bytes on their way. The default passes them through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Each byte arrives so much later.
    pub(crate) latency: Duration,
    /// No more than so many bytes a second, each way and connection.
    pub(crate) bytes_per_second: Option<u32>,
    /// Bytes leave in segments of at most so many.
    pub(crate) segment_bytes: Option<usize>,
    /// Bytes are taken and never arrive: the other side is a black hole. A connection that lost some is reset
    /// when more come after the fault is healed.
    pub(crate) swallow: Swallow,
    /// Nothing moves, and nothing is lost: a cable is pulled that may be put back.
    pub(crate) hold: bool,
    /// New connections are refused.
    pub(crate) refuse: bool,
}

/// Which bytes never arrive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Swallow {
    /// None.
    #[default]
    Nothing,
    /// What the client sends.
    Up,
    /// What the server answers: it does what it is asked, and nobody learns of it.
    Down,
    /// All of them.
    Both,
}

impl Swallow {
    /// Whether bytes of this direction are lost.
    pub(super) fn takes(self, direction: Direction) -> bool {
        match self {
            Self::Nothing => false,
            Self::Up => direction == Direction::Up,
            Self::Down => direction == Direction::Down,
            Self::Both => true,
        }
    }
}

/// How connections end at the proxy's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client is sent a reset.
    Reset,
    /// The client is sent an orderly end.
    Close,
    /// The client hears nothing: its connection stays, with no server behind it.
    HalfOpen,
}

/// When a connection is cut by itself. It happens once; after that there is no such order any more.
pub(super) struct Trigger {
    pub(super) direction: Direction,
    pub(super) when: When,
    pub(super) how: Cut,
}

/// What a trigger waits for.
pub(super) enum When {
    /// So many bytes have been passed on from now, over all connections: exactly so many arrive.
    AfterBytes(usize),
    /// The bytes that came last, those of the new piece included, are these: they do not arrive.
    Before(Predicate),
    /// The same, but they arrive; no answer does.
    After(Predicate),
}

/// Looks at the last bytes of a connection.
pub(super) type Predicate = Box<dyn Fn(&[u8]) -> bool + Send>;

/// What connections follow: the newest value counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders {
    pub(super) faults: Faults,
    pub(super) target: Option<SocketAddr>,
    /// How many times all connections were cut, and how the last time.
    pub(super) cuts: (u64, Cut),
    /// The proxy ends.
    ends: bool,
}

/// What the proxy and its connections share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) trigger: Mutex<Option<Trigger>>,
    /// The last byte of the first such bytes from the server is changed.
    pub(super) flip: Mutex<Option<Vec<u8>>>,
    pub(super) open: AtomicUsize,
    pub(super) accepted: AtomicUsize,
    pub(super) fired: AtomicUsize,
    pub(super) bytes_up: AtomicUsize,
    pub(super) bytes_down: AtomicUsize,
    listening: AtomicUsize,
}

impl Shared {
    pub(super) fn trigger(&self) -> MutexGuard<'_, Option<Trigger>> {
        self.trigger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of passed bytes.
    pub(super) fn bytes(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::Up => &self.bytes_up,
            Direction::Down => &self.bytes_down,
        }
    }
}

/// The proxy.
pub(crate) struct FaultProxy {
    port: u16,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy")
            .field("port", &self.port)
            .field("orders", &*self.orders.borrow())
            .finish()
    }
}

impl FaultProxy {
    /// Starts a proxy that accepts, and closes at once as long as it has nowhere to send to.
    pub(crate) fn new() -> Self {
        let listener = listen_somewhere();
        let port = listener.local_addr().unwrap().port();
        let cuts = (0, Cut::Reset);
        let orders = Orders { faults: Faults::default(), target: None, cuts, ends: false };
        let (orders, follow) = watch::channel(orders);
        let shared = Arc::new(Shared::default());
        let its_shared = Arc::clone(&shared);
        let (started, is_started) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("fault-proxy-{port}"))
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                started.send(()).expect("the starter waits");
                runtime.block_on(run(listener, port, follow, its_shared));
            })
            .expect("a thread can be started");
        is_started.recv().expect("the thread runs");
        Self { port, orders, shared, thread: Some(thread) }
    }

    /// Starts a proxy in front of an address.
    pub(crate) fn in_front_of(target: SocketAddr) -> Self {
        let proxy = Self::new();
        proxy.forward_to(target);
        proxy
    }

    /// Where connections go from now on.
    pub(crate) fn forward_to(&self, target: SocketAddr) {
        self.orders.send_modify(|orders| orders.target = Some(target));
    }

    /// The port that clients connect to, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port))
    }

    /// Sets what becomes of bytes and of new connections. Returns when new connections are refused or accepted
    /// as told.
    pub(crate) fn set(&self, faults: Faults) {
        self.orders.send_modify(|orders| orders.faults = faults);
        let wanted = usize::from(!faults.refuse);
        wait_for("the proxy's listener", || self.shared.listening.load(Ordering::Acquire) == wanted);
    }

    /// Passes everything through again, and forgets what was to trigger a cut.
    pub(crate) fn heal(&self) {
        *self.shared.trigger() = None;
        self.set(Faults::default());
    }

    /// Cuts all connections. Returns when they are gone; half-open ones stay.
    pub(crate) fn cut(&self, how: Cut) {
        let accepted = self.shared.accepted.load(Ordering::Acquire);
        self.orders.send_modify(|orders| orders.cuts = (orders.cuts.0 + 1, how));
        // Clients may come again in the meantime: that is their good right.
        wait_for("connections to be cut", || {
            self.connections() == 0 || self.shared.accepted.load(Ordering::Acquire) > accepted
        });
    }

    /// Cuts the connection that passes on the last of so many bytes from now; exactly so many arrive.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: usize, how: Cut) {
        *self.shared.trigger() = Some(Trigger { direction, when: When::AfterBytes(bytes), how });
    }

    /// Cuts the connection whose last bytes are such; the piece that they came with does not arrive.
    ///
    /// The predicate is given the newest piece and up to 256 bytes before it.
    pub(crate) fn cut_before(
        &self,
        direction: Direction,
        is_such: impl Fn(&[u8]) -> bool + Send + 'static,
        how: Cut,
    ) {
        *self.shared.trigger() = Some(Trigger { direction, when: When::Before(Box::new(is_such)), how });
    }

    /// Cuts the connection whose last bytes are such; they arrive, but nothing comes back any more: what a
    /// server did last, its client never learns.
    pub(crate) fn cut_behind(
        &self,
        direction: Direction,
        is_such: impl Fn(&[u8]) -> bool + Send + 'static,
        how: Cut,
    ) {
        *self.shared.trigger() = Some(Trigger { direction, when: When::After(Box::new(is_such)), how });
    }

    /// Changes the last byte of the next such bytes that the server sends, once; they must come in one piece.
    pub(crate) fn flip_once(&self, bytes: &[u8]) {
        *self.shared.flip.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
    }

    /// Whether bytes that were to be changed have come by.
    pub(crate) fn has_flipped(&self) -> bool {
        self.shared.flip.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// How many connections were cut by `cut_after`, `cut_before` and `cut_behind`.
    pub(crate) fn fired(&self) -> usize {
        self.shared.fired.load(Ordering::Acquire)
    }

    /// How many connections there are, with a server behind them.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// How many connections were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How many bytes arrived so far.
    pub(crate) fn bytes(&self, direction: Direction) -> usize {
        self.shared.bytes(direction).load(Ordering::Acquire)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.ends = true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and a second one here would hide the test's own.
            let _ended = thread.join();
        }
    }
}

/// Whether the bytes contain those.
pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Listens on a free port below those of outgoing connections.
fn listen_somewhere() -> StdListener {
    // Two runs at once begin at different places.
    let start = std::process::id().wrapping_mul(7_919);
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = (start as usize).wrapping_add(step.wrapping_mul(17)) % PORTS.len();
        let port = PORTS.start + u16::try_from(place).expect("a place among ports is a port");
        if let Ok(listener) = StdListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// Accepts connections until the proxy is dropped. The listener is closed while connections are refused.
async fn run(listener: StdListener, port: u16, mut orders: watch::Receiver<Orders>, shared: Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let mut listener = Some(TcpListener::from_std(listener).unwrap());
    loop {
        let now = *orders.borrow_and_update();
        if now.ends {
            return;
        }
        if now.faults.refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is ours"));
        }
        shared.listening.store(usize::from(listener.is_some()), Ordering::Release);
        let accepting = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            client = accepting => if let Ok((client, _)) = client {
                shared.accepted.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(serve(client, orders.clone(), Arc::clone(&shared)));
            },
        }
    }
}

//! A real Kafka of one broker or three, started by `tests/services/kafka`.
//!
//! Promises that the brokers accept when a cluster is handed out, and that they end with it, or with the
//! process if that is killed. Every broker's client port can have a proxy in front of it; the harness itself
//! (topics, tools, leaders) goes past the proxies.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::proxy::FaultProxy;
use super::wait::wait_for;

/// How a cluster is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KafkaOptions {
    /// Three brokers instead of one.
    pub(crate) three: bool,
    /// A listener with TLS and SCRAM-SHA-512 as well.
    pub(crate) secure: bool,
    /// A proxy of faults in front of each broker's client port.
    pub(crate) proxied: bool,
}

/// The listener with TLS and SCRAM-SHA-512.
#[derive(Debug, Clone)]
pub(crate) struct SecureListener {
    /// Host and port of each broker, joined by commas.
    pub(crate) bootstrap: String,
    /// The authority that signed the brokers' certificates, in PEM.
    pub(crate) authority: PathBuf,
    /// The user that the cluster was formatted with.
    pub(crate) user: String,
    /// That user's password.
    pub(crate) password: String,
}

/// A running cluster. Brokers count from 1, as Kafka's ids do.
#[derive(Debug)]
pub(crate) struct Kafka {
    folder: PathBuf,
    values: BTreeMap<String, String>,
    proxies: Vec<FaultProxy>,
    brokers: Mutex<Vec<Broker>>,
    /// The process that started all brokers; it removes the folder when its standard input ends.
    starter: Running,
}

/// What is known of one broker.
#[derive(Debug)]
struct Broker {
    pid: Pid,
    /// The process that runs it, after a restart. Dropped, it ends the broker.
    keeper: Option<Running>,
}

/// A process of the script that lives as long as its standard input.
#[derive(Debug)]
struct Running {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        // Nothing is left to do about a failure here; the process ends all the same.
        let _ended = self.child.wait();
    }
}

/// Where the script stands.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(name)
}

/// Runs the script and reads what it prints until the brokers accept.
fn run_script(arguments: &[&str]) -> (Running, BTreeMap<String, String>) {
    let mut child = Command::new(script("kafka"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Of a signal to all of our processes it learns by our end, and still removes its folder.
        .process_group(0)
        .spawn()
        .expect("tests/services/kafka can be run");
    let input = child.stdin.take();
    let output = child.stdout.take().expect("standard output is piped");
    let running = Running { child, input };
    let mut values = BTreeMap::new();
    for line in BufReader::new(output).lines() {
        let line = line.expect("the script prints text");
        if let Some((name, value)) = line.split_once('=') {
            values.insert(name.to_owned(), value.to_owned());
        }
        if line == "KAFKA_READY=yes" {
            return (running, values);
        }
    }
    panic!("`tests/services/kafka {}` ended early; its errors stand above", arguments.join(" "));
}

/// Parses the process id of broker `n` among printed values.
fn pid_among(values: &BTreeMap<String, String>, n: usize) -> Pid {
    Pid::from_raw(values[&format!("KAFKA_PID_{n}")].parse().expect("a process id is a number"))
}

/// Whether the process runs. One that ended and was not waited for does not; one that still has threads does: its
/// ports are open until the last is gone.
pub(crate) fn is_running(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    threads > 1 || stat.rsplit_once(") ").is_some_and(|(_, tail)| !tail.starts_with(['Z', 'X']))
}

impl Kafka {
    /// The cluster that tests share: one broker with a secure listener. It ends with the process. Tests take
    /// topics and groups of their own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::with(KafkaOptions { secure: true, ..KafkaOptions::default() }))
    }

    /// A cluster of one's own, ended on drop.
    pub(crate) fn start(brokers: usize) -> Self {
        assert!(matches!(brokers, 1 | 3), "wanted 1 or 3 brokers, got {brokers}");
        Self::with(KafkaOptions { three: brokers == 3, ..KafkaOptions::default() })
    }

    /// A cluster of one's own as the options say, ended on drop.
    pub(crate) fn with(options: KafkaOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("horizons-kafka-").tempdir().unwrap().keep();
        let brokers: usize = if options.three { 3 } else { 1 };
        let proxies: Vec<FaultProxy> =
            if options.proxied { (0..brokers).map(|_| FaultProxy::new()).collect() } else { Vec::new() };
        let folder_text = folder.display().to_string();
        let count = brokers.to_string();
        let advertised = proxies.iter().map(|proxy| proxy.port().to_string()).collect::<Vec<_>>().join(",");
        let mut arguments = vec!["start", &folder_text, "--remove", "--brokers", &count];
        if options.secure {
            arguments.push("--secure");
        }
        if options.proxied {
            arguments.extend(["--advertised", &advertised]);
        }
        let (starter, values) = run_script(&arguments);
        for (proxy, address) in proxies.iter().zip(values["KAFKA_BEHIND"].split(',')) {
            proxy.forward_to(address.parse().expect("the script prints addresses"));
        }
        let pids = (1..=brokers).map(|n| Broker { pid: pid_among(&values, n), keeper: None }).collect();
        Self { folder, values, proxies, brokers: Mutex::new(pids), starter }
    }

    /// What clients are given: host and port of each broker, through the proxies if there are any.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.values["KAFKA_BOOTSTRAP"]
    }

    /// The brokers past any proxy: for checkers and tools.
    pub(crate) fn direct(&self) -> &str {
        &self.values["KAFKA_DIRECT"]
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> &str {
        &self.values["KAFKA_CLUSTER"]
    }

    /// Where data, configuration and logs of the brokers are: `broker-N/data`, `broker-N/log`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The listener with TLS and SCRAM-SHA-512, if the cluster has one.
    pub(crate) fn secure(&self) -> Option<SecureListener> {
        Some(SecureListener {
            bootstrap: self.values.get("KAFKA_SECURE")?.clone(),
            authority: PathBuf::from(&self.values["KAFKA_CA"]),
            user: self.values["KAFKA_USER"].clone(),
            password: self.values["KAFKA_PASSWORD"].clone(),
        })
    }

    /// The proxy in front of broker `n`.
    pub(crate) fn proxy(&self, n: usize) -> &FaultProxy {
        &self.proxies[n - 1]
    }

    /// All proxies, in the order of the brokers.
    pub(crate) fn proxies(&self) -> &[FaultProxy] {
        &self.proxies
    }

    /// How many brokers there are, running or not.
    pub(crate) fn broker_count(&self) -> usize {
        self.brokers().len()
    }

    /// The process id of broker `n`: of its last run.
    pub(crate) fn pid(&self, n: usize) -> Pid {
        self.brokers()[n - 1].pid
    }

    /// Kills broker `n` and waits until it is gone.
    pub(crate) fn kill(&self, n: usize) {
        self.end(n, Signal::SIGKILL);
    }

    /// Ends broker `n` in order, as an operator does, and waits until it is gone.
    pub(crate) fn terminate(&self, n: usize) {
        self.end(n, Signal::SIGTERM);
    }

    /// Freezes broker `n`: it keeps its connections and answers nothing.
    pub(crate) fn stop(&self, n: usize) {
        signal::kill(self.pid(n), Signal::SIGSTOP).unwrap();
    }

    /// Lets a frozen broker `n` go on.
    pub(crate) fn cont(&self, n: usize) {
        signal::kill(self.pid(n), Signal::SIGCONT).unwrap();
    }

    /// Runs broker `n` again on its old ports and data, and waits until it accepts. It must have ended.
    pub(crate) fn restart(&self, n: usize) {
        assert!(!is_running(self.pid(n)), "broker {n} still runs");
        let folder = self.folder.display().to_string();
        let (keeper, values) = run_script(&["run", &folder, &n.to_string()]);
        let pid = pid_among(&values, n);
        self.brokers()[n - 1] = Broker { pid, keeper: Some(keeper) };
    }

    /// Runs all brokers again that have ended, at once: one alone of three is no majority and would wait for the others.
    pub(crate) fn restart_all(&self) {
        let ended: Vec<usize> = (1..=self.broker_count()).filter(|n| !is_running(self.pid(*n))).collect();
        std::thread::scope(|scope| {
            for n in ended {
                scope.spawn(move || self.restart(n));
            }
        });
    }

    fn end(&self, n: usize, how: Signal) {
        let pid = self.pid(n);
        signal::kill(pid, how).unwrap();
        wait_for("a broker's end", || !is_running(pid));
    }

    fn brokers(&self) -> MutexGuard<'_, Vec<Broker>> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // The brokers that were restarted first: the starter removes the folder.
        self.brokers().iter_mut().for_each(|broker| drop(broker.keeper.take()));
        drop(self.starter.input.take());
    }
}

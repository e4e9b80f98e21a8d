//! A real PostgreSQL for tests: a throw-away cluster in a folder of its own.
//!
//! Promises that a test without a PostgreSQL on the machine fails and says so; that the server's durability is
//! left switched on, as in production; and that the server ends and its folder goes with the test process, even when
//! that is killed: a watcher waits at a pipe that the process holds.
//!
//! Unit tests of the store use this file too, by its path.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the programs may be, newest first; `HORIZONS_POSTGRES_BIN` comes before them.
const FOLDERS: [&str; 7] = [
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/14/bin",
    "/opt/homebrew/bin",
    "/usr/local/bin",
    "/usr/bin",
];

/// How long a server may take to start: it may have a log to replay.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Attempts to start on a port that was free a moment ago, or beside a predecessor that is still ending.
const STARTS_MAX: u32 = 20;

/// What the watcher does when the test process has ended.
const WATCH: &str =
    "cat >/dev/null; kill -QUIT $(head -n 1 \"$1/data/postmaster.pid\"); sleep 1; rm -rf \"$1\"";

/// A server with its data.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    /// Ends the server and removes its folder when its input ends.
    watcher: Child,
}

/// The one server of a test binary, for tests that leave it running.
pub(crate) fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}

/// Gives a name for a schema or role that no other test of this run has.
pub(crate) fn unique(prefix: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Cluster {
    /// Makes a cluster and starts its server.
    pub(crate) fn start() -> Self {
        let user = server_user();
        let base = tempfile::Builder::new().prefix("horizons-pg-").tempdir().unwrap().keep();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&base, Some(uid), Some(gid)).unwrap();
        }
        let made = as_user(Command::new(program("initdb")), user)
            .current_dir(&base)
            .args(["--auth=trust", "--username=horizons", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(base.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let watcher = as_user(Command::new("sh"), user)
            .args(["-c", WATCH, "watcher"])
            .arg(&base)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut cluster = Self { folder: base, port: 0, user, watcher };
        cluster.start_server();
        cluster
    }

    /// Gives the folder that holds its data and its log.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the address over TCP.
    pub(crate) fn url(&self) -> String {
        format!("postgres://horizons@127.0.0.1:{}/postgres", self.port)
    }

    /// Gives the address over the socket in the cluster's folder.
    pub(crate) fn socket_url(&self) -> String {
        format!("host={} port={} user=horizons dbname=postgres", self.folder.display(), self.port)
    }

    /// Gives the port on loopback.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server's processes at once, as a loss of power would, and waits until they are gone.
    pub(crate) fn kill(&self) {
        let server = self.server_pid();
        signal("-KILL", server);
        wait_until("the server is gone", || !Path::new(&format!("/proc/{server}")).exists());
    }

    /// Starts the server again on the same port and data.
    pub(crate) fn restart(&mut self) {
        self.start_server();
    }

    /// Runs statements through `psql`, all in one transaction; gives what they print.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.try_sql("horizons", statements).unwrap()
    }

    /// Runs statements as a role; gives what they print, or why they were refused.
    pub(crate) fn try_sql(&self, role: &str, statements: &str) -> Result<String, String> {
        let ran = Command::new(program("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .arg(format!("postgres://{role}@127.0.0.1:{}/postgres", self.port))
            .args(["--command", statements])
            .output()
            .unwrap();
        if ran.status.success() {
            Ok(String::from_utf8(ran.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&ran.stderr).into_owned())
        }
    }

    /// Gives what the server has logged.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("server.log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Gives the server's main process.
    pub(crate) fn server_pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        text.lines().next().unwrap().trim().parse().unwrap()
    }

    fn start_server(&mut self) {
        for _ in 0..STARTS_MAX {
            // A port once chosen stays: who is connected shall find the server again.
            let port = if self.port == 0 { free_port() } else { self.port };
            if self.try_start(port) {
                self.port = port;
                return;
            }
        }
        let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        panic!("PostgreSQL did not start: {log}");
    }

    fn try_start(&self, port: u16) -> bool {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={} -c shared_buffers=128MB \
             -c max_connections=200 -c max_wal_size=1GB",
            self.folder.display()
        );
        let started = as_user(Command::new(program("pg_ctl")), self.user)
            .current_dir(&self.folder)
            .args(["start", "--wait", "--silent", "--timeout", &START_LIMIT.as_secs().to_string(), "-D"])
            .arg(self.folder.join("data"))
            .arg("--log")
            .arg(self.folder.join("server.log"))
            .args(["-o", &options])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .status()
            .unwrap();
        started.success()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Ends the watcher's input; it does the rest.
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Finds a program of PostgreSQL's.
fn program(name: &str) -> PathBuf {
    let chosen = std::env::var_os("HORIZONS_POSTGRES_BIN").map(PathBuf::from);
    let known = FOLDERS.iter().map(PathBuf::from);
    chosen
        .into_iter()
        .chain(known)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!(
                "`{name}` of PostgreSQL 14 or newer was not found: install it, or set HORIZONS_POSTGRES_BIN"
            )
        })
}

/// The user that the server runs as: it refuses to be root.
fn server_user() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| nix::unistd::User::from_name(name).unwrap())
        .expect("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn as_user(mut command: Command, user: Option<(u32, u32)>) -> Command {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Waits for a condition, with a limit.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + START_LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

//! The real program in a folder of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use horizons::exit::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::place::{Events, Place};
use crate::services::wait::wait_within;

/// Longer than anything takes on a loaded machine; a test that waits so long has failed.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Waits for a condition, with a limit.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_some(what, || condition().then_some(()));
}

/// Waits for a value, with a limit.
pub(crate) fn wait_some<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(WAIT_LIMIT, what, look)
}

/// Lets a moment pass that the test is about, a kill's for instance.
pub(crate) fn pass(moment: Duration) {
    let until = Instant::now() + moment;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A folder with a configuration, in which servers run one after the other.
pub(crate) struct World {
    folder: TempDir,
    servers: AtomicU32,
    place: Place,
}

/// How a server is started.
const SERVE: [&str; 3] = ["serve", "--config", "config.toml"];

/// What every test's configuration begins with; its own settings come last in their sections.
const CONFIG: &str = r#"
[events]
encoding = "json"
[log]
format = "json"
"#;

/// The agents: each notes its start and its end under its job and attempt, then does what its name says.
///
/// `note` appends a line by one `write` to a file that was opened for appending: two agents never mix.
const AGENTS: [(&str, &str); 5] = [
    ("quick", "note start; note end"),
    ("slow", "note start; sleep 0.4; note end"),
    ("fail", "note start; exit 3"),
    ("long", "note start; exec sleep 600"),
    ("stubborn", "note start; trap '' TERM; while :; do sleep 0.05; done"),
];

impl World {
    pub(crate) fn new() -> Self {
        Self::with("", "slots = 4\n")
    }

    /// Makes a folder with settings of its own: whole sections, and keys of the scheduler.
    pub(crate) fn with(sections: &str, scheduler: &str) -> Self {
        Self::at(Place::embedded(), sections, scheduler)
    }

    /// Makes a folder for a server with its rows and events at a place. Several may share one.
    pub(crate) fn at(place: Place, sections: &str, scheduler: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("horizons-process-").tempdir().unwrap();
        let world = Self { folder, servers: AtomicU32::new(0), place };
        world.configure(sections, scheduler);
        world
    }

    /// Has the program make its topics, where the events are in Kafka.
    pub(crate) fn create_topics(&self) {
        if matches!(self.place.events, Events::Kafka { .. }) {
            let output = self.command(&["topics", "create", "--config", "config.toml"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, sections: &str, scheduler: &str) {
        let mut text = CONFIG.to_owned();
        if !sections.contains("[http]") {
            text.push_str("[http]\nlisten = \"127.0.0.1:0\"\n");
        }
        if !sections.contains("[store]") {
            text.push_str("[store]\nfolder = \"data\"\n");
        }
        text.push_str("[scheduler]\nsample_interval_ms = 50\npoll_interval_ms = 20\nkill_grace_ms = 200\n");
        text.push_str(scheduler);
        text.push('\n');
        text.push_str(sections);
        let notes = self.notes().display().to_string();
        for (name, script) in AGENTS {
            let script = format!("note() {{{{ echo \"$1 $2 $3 $$\" >> {notes}; }}}}; {script}")
                .replace("note start", "note start \"$1\" \"$2\"")
                .replace("note end", "note end \"$1\" \"$2\"");
            let arguments = [
                "-c".to_owned(),
                script,
                name.to_owned(),
                "{job_id}".to_owned(),
                "{attempt}".to_owned(),
                "{dataset_id}".to_owned(),
            ];
            let arguments = serde_json::to_string(&arguments).unwrap();
            text.push_str(&format!(
                "[agents.{name}]\nprogram = \"/bin/sh\"\narguments = {arguments}\ntime_limit_ms = 120000\n"
            ));
        }
        fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Gives the file that agents write to.
    pub(crate) fn notes(&self) -> PathBuf {
        self.folder().join("notes")
    }

    /// Prepares the program in this folder, without any variable but those of its place.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_horizons"));
        command.args(arguments).current_dir(self.folder()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HORIZONS_")) {
            command.env_remove(name);
        }
        command.envs(self.place.environment());
        command
    }

    /// Starts a server; `fault` says where it is to fail.
    pub(crate) fn spawn(&self, fault: Option<&str>) -> Server {
        let mut command = self.command(&SERVE);
        if let Some(fault) = fault {
            command.env("HORIZONS_FAIL_AT", fault);
        }
        self.start(command)
    }

    /// Starts a server that may not write files beyond a size; a write beyond it fails and kills nobody.
    pub(crate) fn spawn_limited(&self, bytes: u64) -> Server {
        // POSIX: `ulimit -f` counts blocks of 512 bytes. An ignored signal stays ignored in the program.
        self.spawn_after(&format!("trap '' XFSZ; ulimit -f {}", bytes / 512))
    }

    /// Starts a server under a umask.
    pub(crate) fn spawn_under_umask(&self, umask: &str) -> Server {
        self.spawn_after(&format!("umask {umask}"))
    }

    /// Starts a server in what a shell makes of itself.
    fn spawn_after(&self, commands: &str) -> Server {
        let script = format!("{commands}; exec \"$0\" \"$@\"");
        let program = self.command(&SERVE);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(program.get_program()).args(program.get_args());
        command.current_dir(self.folder()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.start(command)
    }

    /// Starts a server whose standard error is a pipe, on a port that is chosen here: it cannot say where it listens.
    pub(crate) fn spawn_into_pipe(&self, prepare: impl FnOnce(&mut Command)) -> (Server, ChildStderr) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = self.command(&SERVE);
        command.env("HORIZONS_HTTP_LISTEN", address.to_string());
        prepare(&mut command);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pipe = child.stderr.take().unwrap();
        let said = self.folder().join("stderr-pipe");
        fs::write(&said, "standard error is a pipe").unwrap();
        (Server { child, stderr: said, address: Some(address) }, pipe)
    }

    fn start(&self, mut command: Command) -> Server {
        let number = self.servers.fetch_add(1, Ordering::Relaxed);
        let stderr = self.folder().join(format!("stderr-{number}"));
        let child = command.stderr(fs::File::create(&stderr).unwrap()).stdout(Stdio::null()).spawn().unwrap();
        Server { child, stderr, address: None }
    }

    /// Starts a server as another user, who may write to this folder.
    pub(crate) fn spawn_as(&self, user: &str) -> Server {
        // Where the program was built may be closed to that user.
        let linked = self.folder().join("horizons");
        fs::hard_link(env!("CARGO_BIN_EXE_horizons"), &linked)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_horizons"), &linked).map(drop))
            .unwrap();
        fs::set_permissions(self.folder(), fs::Permissions::from_mode(0o777)).unwrap();
        let program = self.command(&SERVE);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups"]).arg(linked);
        command.args(program.get_args()).current_dir(self.folder()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.start(command)
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn serve(&self) -> Server {
        let mut server = self.spawn(None);
        server.wait_until_ready();
        server
    }

    /// Starts a server and waits until it listens; it need not be ready.
    pub(crate) fn spawn_and_wait_until_it_listens(&self) -> Server {
        let mut server = self.spawn(None);
        wait_for("the server to listen", || server.find_address().is_some());
        server
    }

    /// Starts a server that must end by itself, and gives its exit code and what it said.
    pub(crate) fn serve_in_vain(&self) -> (Option<i32>, String) {
        let mut server = self.spawn(None);
        let status = server.wait_for_exit();
        (status.code(), server.said())
    }

    /// Runs a client command against a server.
    pub(crate) fn cli(&self, server: &Server, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).env("HORIZONS_URL", format!("http://{}", server.client().0)).output().unwrap()
    }

    /// Lists the living processes that have to do with this folder, but for the zombies.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let folder = self.folder().to_str().unwrap().as_bytes();
        let holds = |bytes: &[u8]| bytes.windows(folder.len()).any(|window| window == folder);
        let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let command = fs::read(path.join("cmdline")).ok()?;
            let is_ours = holds(&command)
                || fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.folder()))
                || fs::read(path.join("environ")).is_ok_and(|environ| holds(&environ));
            is_ours.then(|| (pid, String::from_utf8_lossy(&command).replace('\0', " ")))
        });
        entries.collect()
    }

    /// Gives each start and end that agents have noted: what, job, attempt.
    pub(crate) fn noted(&self) -> Vec<(String, String, u64)> {
        let text = fs::read_to_string(self.notes()).unwrap_or_default();
        text.lines()
            .map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                (parts[0].to_owned(), parts[1].to_owned(), parts[2].parse().unwrap())
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            // What a failed test leaves is for a person to look at.
            let kept = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()).keep();
            eprintln!("the folder is kept: {}", kept.display());
        }
    }
}

/// A running program.
pub(crate) struct Server {
    child: Child,
    stderr: PathBuf,
    address: Option<SocketAddr>,
}

impl Server {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Gives what it wrote to standard error so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Gives its log lines.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Finds where it listens, once it has said so.
    fn find_address(&mut self) -> Option<SocketAddr> {
        if self.address.is_none() {
            let lines = self.log();
            let line = lines.iter().find(|line| line["message"] == "serving HTTP")?;
            self.address = Some(line["address"].as_str()?.parse().unwrap());
        }
        self.address
    }

    /// Waits until it is ready; false when it has ended before.
    pub(crate) fn wait_until_ready_or_gone(&mut self) -> bool {
        wait_some("the server to be ready", || {
            if !self.is_running() {
                return Some(false);
            }
            let address = self.find_address()?;
            let answer = Client(address).send("GET", "/ready", &[], None);
            answer.is_ok_and(|answer| answer.status == 200).then_some(true)
        })
    }

    pub(crate) fn wait_until_ready(&mut self) {
        assert!(self.wait_until_ready_or_gone(), "the server ended: {}", self.said());
    }

    pub(crate) fn client(&self) -> Client {
        Client(self.address.expect("the server was waited for"))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for("the server's end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }

    /// Kills it without a warning, if it has not ended before.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGINT);
        let status = self.wait_for_exit();
        assert_eq!(status.code(), Some(i32::from(Exit::Done.code())), "{}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

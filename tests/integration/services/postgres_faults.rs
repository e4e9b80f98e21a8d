//! More of what can happen to a PostgreSQL than its death: an orderly end, a frozen server, a lost session.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::kafka::is_running;
use super::postgres::{Cluster, wait_until};
use super::proxy::{Cut, Direction, FaultProxy, contains};
use super::wait::wait_for;

impl Cluster {
    /// Ends the server in order, as an operator does: sessions are cut, and what is committed is written out.
    pub(crate) fn terminate(&self) {
        let server = self.server();
        kill(server, Signal::SIGINT).unwrap();
        wait_for("PostgreSQL's end", || !is_running(server));
    }

    /// Freezes the server with all its sessions: connections stay, and nothing is answered.
    pub(crate) fn stop(&self) {
        // First the one that starts others.
        kill(self.server(), Signal::SIGSTOP).unwrap();
        for pid in self.children() {
            // One that ended in the meantime is as still as a frozen one.
            let _sent = kill(pid, Signal::SIGSTOP);
        }
    }

    /// Lets a frozen server go on.
    pub(crate) fn cont(&self) {
        for pid in self.children() {
            let _sent = kill(pid, Signal::SIGCONT);
        }
        kill(self.server(), Signal::SIGCONT).unwrap();
    }

    /// Kills the process of one session: the server ends all sessions and recovers by itself.
    pub(crate) fn kill_session(&self, pid: i32) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    fn server(&self) -> Pid {
        Pid::from_raw(self.server_pid().cast_signed())
    }

    /// The processes that the server started: one per session, and its helpers.
    fn children(&self) -> Vec<Pid> {
        let server = self.server_pid();
        let listed = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
        listed.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }
}

/// Runs statements by `psql` at an address, with a limit on connecting; tells whether they succeeded.
fn can_ask(url: &str) -> bool {
    std::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--command", "INSERT INTO kept VALUES (1)"])
        .arg(format!("{url}?connect_timeout=2"))
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn postgres_ended_frozen_and_robbed_of_a_session_has_its_port_and_data() {
    let started = Instant::now();
    let mut cluster = Cluster::start();
    println!("PostgreSQL accepts after {:?}", started.elapsed());
    let url = cluster.url();
    cluster.sql("CREATE TABLE kept (number int)");

    cluster.terminate();
    assert!(!can_ask(&url));
    cluster.restart();
    assert!(can_ask(&url));
    cluster.stop();
    assert!(!can_ask(&url), "a frozen server must not answer");
    cluster.cont();
    assert!(can_ask(&url));
    let session = cluster.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    cluster.kill_session(session.parse().unwrap());

    wait_until("the server has recovered", || can_ask(&url));
    cluster.kill();
    cluster.restart();
    assert!(can_ask(&url));
    let count: u32 = cluster.sql("SELECT count(*) FROM kept").parse().unwrap();
    assert!(count >= 4, "{count}");
    let (folder, socket) = (cluster.folder().to_owned(), cluster.socket_url());
    let ping =
        || std::process::Command::new("psql").args([&socket, "--command", "SELECT 1"]).output().unwrap();
    assert!(ping().status.success());
    drop(cluster);
    assert!(!ping().status.success());
    wait_for("the folder to be gone", || !folder.exists());
}

#[test]
fn postgres_behind_a_proxy_commits_what_its_client_is_not_told() {
    let cluster = super::postgres::shared();
    let table = super::postgres::unique("cut_commit");
    cluster.sql(&format!("CREATE TABLE {table} (number int)"));
    let proxy = FaultProxy::in_front_of(([127, 0, 0, 1], cluster.port()).into());
    proxy.cut_behind(Direction::Up, |bytes| contains(bytes, b"COMMIT"), Cut::Reset);

    let client = std::process::Command::new("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--command",
            &format!("BEGIN; INSERT INTO {table} VALUES (1); COMMIT"),
        ])
        .arg(format!("postgres://horizons@127.0.0.1:{}/postgres?sslmode=disable", proxy.port()))
        .output()
        .unwrap();

    assert!(!client.status.success(), "the client must not learn of its commit");
    assert_eq!(proxy.fired(), 1);
    wait_for("the commit", || cluster.sql(&format!("SELECT count(*) FROM {table}")) == "1");
}

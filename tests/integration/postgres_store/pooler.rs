//! A connection pooler in front of the server: the real PgBouncer.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::Connection as _;
use diesel::connection::SimpleConnection;
use horizons::db::error::OpenError;
use horizons::db::postgres::{ConnectionUrl, PostgresConfig, PostgresReader, PostgresStore, migrate};
use tempfile::TempDir;

use super::{config, drive, open};
use crate::services::postgres::shared;
use crate::services::wait::wait_for;

/// Where Debian puts it; elsewhere it is in the search path.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A pooler in front of the shared server.
struct Pooler {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    fn start(mode: &str, pool_size: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("horizons-pooler-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres user=horizons\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\ndefault_pool_size = {pool_size}\nlogfile = {folder}/log\n",
            shared().port(),
            folder = folder.path().display()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let program =
            if Path::new(PROGRAM).exists() { PathBuf::from(PROGRAM) } else { PathBuf::from("pgbouncer") };
        let mut command = Command::new(program);
        // It refuses to be root.
        if nix::unistd::geteuid().is_root() {
            let user =
                ["postgres", "nobody"].iter().find_map(|name| nix::unistd::User::from_name(name).unwrap());
            let user = user.expect("there is a user `postgres` or `nobody`");
            std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .unwrap();
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let child =
            command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("PgBouncer is installed (`needed` in tests/environment.sh)");
        let pooler = Self { child, port, _folder: folder };
        wait_for("the pooler to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        pooler
    }

    fn config(&self) -> PostgresConfig {
        config(format!("postgres://horizons@127.0.0.1:{}/postgres", self.port))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_refused<T>(opened: Result<T, OpenError>) -> bool {
    let Err(error) = opened else { return false };
    let text = error.to_string();
    matches!(error, OpenError::Pooled { .. }) && text.contains("pool_mode")
}

#[test]
fn pooler_that_gives_connections_to_others_between_transactions_is_refused() {
    for pool_size in [1, 20] {
        let pooler = Pooler::start("transaction", pool_size);
        let config = pooler.config();

        assert!(is_refused(PostgresStore::open(config.clone())), "with {pool_size} connections");
        assert!(is_refused(PostgresStore::open_alone(config.clone())));
        assert!(is_refused(PostgresReader::open(&config)));
        assert!(is_refused(migrate(&config)));
        let schemas = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{}'", config.schema);
        assert_eq!(shared().sql(&schemas), "0", "nothing was made");
    }
}

#[test]
fn pooler_that_allows_no_transaction_is_refused() {
    let pooler = Pooler::start("statement", 5);

    let opened = PostgresStore::open(pooler.config());

    assert!(matches!(opened, Err(OpenError::Pooled { .. })), "{opened:?}");
}

#[tokio::test]
async fn pooler_that_keeps_a_connection_for_its_client_serves() {
    let pooler = Pooler::start("session", 50);
    let store = open(&pooler.config());

    let unknown = drive(&store, 0, 5).await;

    assert_eq!(unknown, 0);
}

/// Busy beside us: what others do must not hide the pooler.
#[test]
fn pooler_that_is_busy_is_found_too() {
    let pooler = Pooler::start("transaction", 4);
    let url = ConnectionUrl::new(format!("postgres://horizons@127.0.0.1:{}/postgres", pooler.port));
    let is_over = AtomicBool::new(false);

    let refused = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let url = format!("postgres://horizons@127.0.0.1:{}/postgres", pooler.port);
                let mut other = diesel::pg::PgConnection::establish(&url).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    other.batch_execute("BEGIN; SELECT 1; COMMIT").unwrap();
                }
            });
        }
        let refused = is_refused(PostgresStore::open(PostgresConfig { url, ..pooler.config() }));
        is_over.store(true, Ordering::Relaxed);
        refused
    });

    assert!(refused);
}

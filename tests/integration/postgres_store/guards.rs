//! Rights, triggers, migrations and leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use horizons::db::error::OpenError;
use horizons::db::postgres::{
    ConnectionUrl, Lease, Migrations, PostgresConfig, PostgresReader, PostgresStore, Taken, migrate,
};
use horizons_actors::ports::query::{AuditFilter, QueryStore};
use horizons_actors::ports::store::{CommitError, LaneStore};
use horizons_actors::testkit::contract::sample::Owner;

use super::{config, drive, effects, lane, open, process};
use crate::services::postgres::{Cluster, shared, unique};
use crate::services::wait::wait_for;

const AUDIT_TABLES: [&str; 5] =
    ["audit_entries", "audit_bodies", "audit_runs", "audit_segments", "audit_logs"];

/// Runs a statement as a role; gives the server's refusal.
fn refusal(cluster: &Cluster, role: &str, statement: &str) -> String {
    cluster.try_sql(role, statement).expect_err(statement)
}

#[tokio::test]
async fn audit_tables_owner_changes_are_refused_by_triggers() {
    let config = config(shared().socket_url());
    let store = open(&config);
    drive(&store, 0, 2).await;

    for table in AUDIT_TABLES {
        let name = format!("{}.{table}", config.schema);
        for statement in [format!("DELETE FROM {name}"), format!("TRUNCATE {name}")] {
            let text = refusal(shared(), "horizons", &statement);
            assert!(text.contains("horizons: "), "{statement}: {text}");
        }
    }
    for change in
        ["audit_entries SET mark = ''", "audit_bodies SET payload = ''", "audit_runs SET entries = 9"]
    {
        let text = refusal(shared(), "horizons", &format!("UPDATE {}.{change}", config.schema));
        assert!(text.contains("never changed"), "{change}: {text}");
    }
    let text = refusal(shared(), "horizons", &format!("UPDATE {}.audit_logs SET size = 1", config.schema));
    assert!(text.contains("may only grow"), "{text}");
}

#[tokio::test]
async fn granted_role_runs_the_store_and_may_not_touch_what_is_audited() {
    let role = unique("runner");
    shared().sql(&format!("CREATE ROLE {role} LOGIN"));
    let mut config = config(shared().socket_url());
    config.grant_to = Some(role.clone());
    migrate(&config).unwrap();
    config.url = ConnectionUrl::new(shared().socket_url().replace("user=horizons", &format!("user={role}")));
    config.migrations = Migrations::ByOperator;
    config.grant_to = None;

    let store = open(&config);
    drive(&store, 0, 3).await;

    let schema = &config.schema;
    for table in AUDIT_TABLES {
        let denied = [
            format!("DELETE FROM {schema}.{table}"),
            format!("TRUNCATE {schema}.{table}"),
            format!("ALTER TABLE {schema}.{table} DISABLE TRIGGER ALL"),
            format!("DROP TABLE {schema}.{table}"),
            format!(
                "CREATE TRIGGER t BEFORE INSERT ON {schema}.{table} EXECUTE FUNCTION {schema}.refuse_change()"
            ),
        ];
        for statement in denied {
            let text = refusal(shared(), &role, &statement);
            assert!(
                text.contains("permission denied") || text.contains("must be owner"),
                "{statement}: {text}"
            );
        }
    }
    for change in [
        "UPDATE audit_entries SET mark = ''",
        "UPDATE audit_bodies SET payload = ''",
        "UPDATE audit_runs SET entries = 9",
        "UPDATE audit_segments SET closed_at = 9",
        "UPDATE log SET payload = ''",
        "SET session_replication_role = replica",
        "CREATE TABLE another (one BIGINT)",
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('9')",
    ] {
        let text = refusal(shared(), &role, &format!("SET search_path = {schema}; {change}"));
        assert!(text.contains("permission denied"), "{change}: {text}");
    }
}

#[tokio::test]
async fn open_unknown_migration_is_refused_as_newer() {
    let config = config(shared().socket_url());
    drop(open(&config));
    shared().sql(&format!(
        "INSERT INTO {}.__diesel_schema_migrations (version) VALUES ('99990101000000')",
        config.schema
    ));

    let writing = PostgresStore::open(config.clone());
    let reading = PostgresReader::open(&config);

    for opened in [writing.map(drop), reading.map(drop)] {
        assert!(
            matches!(&opened, Err(OpenError::NewerSchema { migration, .. }) if migration == "99990101000000"),
            "{opened:?}"
        );
    }
}

#[test]
fn open_by_operator_missing_migrations_are_refused() {
    let mut config = config(shared().socket_url());
    config.migrations = Migrations::ByOperator;
    let without_schema = PostgresStore::open(config.clone());
    shared().sql(&format!("CREATE SCHEMA {}", config.schema));

    let empty = PostgresStore::open(config.clone());

    assert!(matches!(without_schema, Err(OpenError::Missing { .. })), "{without_schema:?}");
    assert!(matches!(empty, Err(OpenError::OlderSchema { .. })), "{empty:?}");
}

#[test]
fn migrate_many_at_once_make_one_schema() {
    let config = config(shared().socket_url());

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let config = config.clone();
            std::thread::spawn(move || migrate(&config))
        })
        .collect();

    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn open_server_that_does_not_sync_is_refused() {
    let cluster = Cluster::start();
    cluster.sql("ALTER SYSTEM SET full_page_writes = off");
    cluster.sql("SELECT pg_reload_conf()");
    wait_for("the setting", || cluster.sql("SHOW full_page_writes") == "off");

    let opened = PostgresStore::open(config(cluster.socket_url()));

    assert!(matches!(&opened, Err(OpenError::NotDurable { setting: "full_page_writes", .. })), "{opened:?}");
}

#[tokio::test]
async fn two_processes_lane_of_the_first_is_fenced_and_both_see_all() {
    let config = config(shared().socket_url());
    let (first, second) = (open(&config), open(&config));
    drive(&first, 0, 2).await;
    let opened = first.open_lane(lane(0), process()).await.unwrap();
    let zombie = Owner::new(lane(0), &opened);
    let taken = second.open_lane(lane(0), process()).await.unwrap();
    let owner = Owner::new(lane(0), &taken);

    let late = first.commit(zombie.step(effects(0, 2))).await;
    let own = second.commit(owner.step(effects(0, 2))).await;
    drive(&second, 1, 3).await;

    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    assert!(own.is_ok(), "{own:?}");
    let filter = AuditFilter { limit: 100, ..AuditFilter::default() };
    assert_eq!(first.audit_entries(filter).await.unwrap().entries.len(), 6);
    assert_eq!(first.progress().await.unwrap().len(), 2);
}

#[test]
fn lease_held_names_the_holder_and_is_free_after_drop() {
    let config = config(shared().socket_url());
    let alone = PostgresStore::open_alone(config.clone()).unwrap();
    assert!(alone.lease().is_some_and(Lease::is_held));

    let second = PostgresStore::open_alone(config.clone());
    drop(alone);
    let third = PostgresStore::open_alone(config);

    let pid = std::process::id().to_string();
    assert!(
        matches!(&second, Err(OpenError::LeaseHeld { holder, .. }) if holder.contains(&pid)),
        "{second:?}"
    );
    assert!(third.is_ok(), "{third:?}");
}

/// Takes a lease, which must be free.
fn take(config: &PostgresConfig, on_lost: impl FnOnce() + Send + 'static) -> Lease {
    match Lease::take(config, "test", on_lost).unwrap() {
        Taken::Ours(lease) => lease,
        Taken::Held(holder) => panic!("`{holder}` has the lease"),
    }
}

#[test]
fn lease_of_a_dead_process_here_is_taken_at_once_elsewhere_when_it_expires() {
    let config = config(shared().socket_url());
    drop(open(&config));
    let first = take(&config, || {});
    let schema = &config.schema;
    // As if this process had another start: the one that is named is dead. Its lease lasts for an hour.
    shared().sql(&format!(
        "UPDATE {schema}.leases SET holder = regexp_replace(holder, '^(\\S+ \\S+) \\S+', '\\1 1'),
                expires_at = now() + interval '1 hour'"
    ));

    let second = take(&config, || {});
    shared().sql(&format!(
        "UPDATE {schema}.leases SET holder = 'another machine', expires_at = now() + interval '1 hour'"
    ));
    let held = Lease::take(&config, "test", || {}).unwrap();
    shared().sql(&format!("UPDATE {schema}.leases SET expires_at = now()"));
    let third = take(&config, || {});

    assert!(matches!(held, Taken::Held(holder) if holder == "another machine"));
    assert!(first.epoch() < second.epoch() && second.epoch() < third.epoch());
}

#[test]
fn lease_taken_by_another_is_lost_and_told() {
    let mut config = config(shared().socket_url());
    drop(open(&config));
    config.lease_time = Duration::from_millis(600);
    let told = Arc::new(AtomicBool::new(false));
    let lease = take(&config, {
        let told = Arc::clone(&told);
        move || told.store(true, Ordering::SeqCst)
    });

    shared().sql(&format!("UPDATE {}.leases SET holder = 'another', epoch = epoch + 1", config.schema));

    wait_for("the holder to be told", || told.load(Ordering::SeqCst));
    assert!(lease.is_lost() && !lease.is_held());
}

#[test]
fn lease_server_away_stops_being_held_before_it_expires_and_goes_on_after() {
    let mut cluster = Cluster::start();
    let mut config = config(cluster.socket_url());
    drop(open(&config));
    config.lease_time = Duration::from_secs(2);
    let lease = take(&config, || {});

    cluster.kill();
    wait_for("the lease to stop being held", || !lease.is_held());
    cluster.restart();
    wait_for("the lease to be held again", || lease.is_held());

    assert!(!lease.is_lost());
}

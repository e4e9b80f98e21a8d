//! Where audit entries stand in the SQLite store: the order of numbers, what `audit verify` finds when runs are
//! tampered with, and files that older versions wrote.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use diesel::connection::SimpleConnection;
use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use horizons::db::sqlite::{SqliteConfig, SqliteStore};
use horizons::exit::Exit;
use horizons_actors::auditor::Auditor;
use horizons_actors::effect::Effects;
use horizons_actors::ids::{LaneKey, LogId, Topic};
use horizons_actors::lane::behaviour::{Behaviour, Entry, Verdict, Workspace};
use horizons_actors::ports::query::{AuditFilter, QueryStore};
use horizons_actors::ports::store::{CommitError, LaneStore, StoreError};
use horizons_actors::rejection::Rejection;
use horizons_actors::state::{AuditLogState, StateKey, StateValue};
use horizons_actors::testkit::contract::sample::{Owner, at, auditor_lane, log_record};
use tempfile::TempDir;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The step that brought runs.
const RUNS_VERSION: &str = "20261121000700";

/// Entries of one commit of a lane.
const BATCH: u64 = 3;

fn raw(folder: &Path) -> SqliteConnection {
    SqliteConnection::establish(folder.join("horizons.db").to_str().unwrap()).unwrap()
}

/// Runs `audit verify` on a folder.
fn verify(folder: &Path) -> Output {
    let arguments = ["audit", "verify", "--data", folder.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_horizons"));
    command.args(arguments).current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HORIZONS_")) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn assert_verified(folder: &Path, wanted: Exit, what: &str) {
    let output = verify(folder);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(wanted.code())), "{what}: {text}");
}

fn lane(number: u16) -> LaneKey {
    auditor_lane(Topic::JobLifecycle, number)
}

/// Lets the auditor append a batch to a log.
fn append(log_id: &LogId, lane: &LaneKey, log: Option<AuditLogState>) -> Effects {
    let first = log.as_ref().map_or(0, |log| log.size);
    let loaded: HashMap<_, _> =
        log.into_iter().map(|log| (StateKey::AuditLog, StateValue::AuditLog(log))).collect();
    let mut work = Workspace::new(log_id, lane, at(5), &loaded);
    for offset in first..first + BATCH {
        let record = log_record(offset, Some("job-1"), &format!("{lane} {offset}"));
        Auditor::new()
            .apply(&Entry { record, verdict: Verdict::Rejected(Rejection::PayloadMissing) }, &mut work);
    }
    Auditor::new().finish(&mut work);
    work.finish().0
}

fn log_of(effects: &Effects) -> AuditLogState {
    let log = effects.states.iter().find_map(|(_, value)| match value {
        StateValue::AuditLog(log) => Some(log.clone()),
        _ => None,
    });
    log.unwrap()
}

/// Appends one batch to each of two lanes, as often as asked, in turn.
async fn fill(store: &SqliteStore, rounds: usize) {
    let mut owners = Vec::new();
    for number in 0..2 {
        let opened =
            store.open_lane(lane(number), horizons_actors::testkit::contract::sample::PROCESS).await.unwrap();
        owners.push(Owner::new(lane(number), &opened));
    }
    for _ in 0..rounds {
        for owner in &mut owners {
            let loaded = store.load(owner.lane.clone(), vec![StateKey::AuditLog]).await.unwrap();
            let log = loaded.into_iter().find_map(|(_, value)| match value {
                StateValue::AuditLog(log) => Some(log),
                _ => None,
            });
            let effects = append(&store.log_id(), &owner.lane, log);
            let committed = store.commit(owner.step(effects)).await.unwrap();
            owner.stepped(&committed);
        }
    }
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(SqliteConfig::new(folder)).unwrap()
}

/// Reads positions and payloads of everything, in pages of a size.
async fn read_all(store: &SqliteStore, limit: usize) -> Vec<(u16, u64, String)> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let filter = AuditFilter { after, limit, ..AuditFilter::default() };
        let page = store.audit_entries(filter).await.unwrap();
        for entry in page.entries {
            let record = entry.record.unwrap();
            let payload = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
            all.push((entry.position.topic_partition.partition.0, entry.position.index, payload));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// What [`read_all`] gives of two lanes with so many batches.
fn wanted(rounds: u64) -> Vec<(u16, u64, String)> {
    let of_lane =
        |number| (0..rounds * BATCH).map(move |index| (number, index, format!("{} {index}", lane(number))));
    (0..2).flat_map(of_lane).collect()
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Run {
    #[diesel(sql_type = BigInt)]
    lane: i64,
    #[diesel(sql_type = BigInt)]
    first_index: i64,
    #[diesel(sql_type = BigInt)]
    base_entry: i64,
    #[diesel(sql_type = BigInt)]
    entries: i64,
}

fn runs(folder: &Path) -> Vec<(i64, i64, i64, i64)> {
    let rows: Vec<Run> = diesel::sql_query("SELECT * FROM audit_runs ORDER BY lane, first_index")
        .load(&mut raw(folder))
        .unwrap();
    rows.into_iter().map(|run| (run.lane, run.first_index, run.base_entry, run.entries)).collect()
}

#[tokio::test]
async fn append_of_lanes_in_turn_numbers_entries_in_order_of_writing() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    fill(&store, 2).await;
    drop(store);
    let store = open(folder.path());
    fill(&store, 1).await;

    let found = runs(folder.path());
    let small = read_all(&store, 2).await;
    let large = read_all(&store, 100).await;
    drop(store);

    let (a, b) = (found[0].0, found[3].0);
    let in_turn = [(a, 0, 1, 3), (a, 3, 7, 3), (a, 6, 13, 3), (b, 0, 4, 3), (b, 3, 10, 3), (b, 6, 16, 3)];
    assert_eq!(found, in_turn);
    assert_eq!(small, wanted(3));
    assert_eq!(large, wanted(3));
    assert_verified(folder.path(), Exit::Done, "untouched");
}

#[tokio::test]
async fn append_that_does_not_follow_is_refused() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    fill(&store, 1).await;
    let opened = store.open_lane(lane(0), horizons_actors::testkit::contract::sample::PROCESS).await.unwrap();
    let owner = Owner::new(lane(0), &opened);
    let first = || append(&store.log_id(), &lane(0), None);
    let second = || append(&store.log_id(), &lane(0), Some(log_of(&first())));
    let mut gap = second();
    gap.audit_entries.remove(0);
    let mut uncounted = second();
    uncounted.states.clear();

    let again = store.commit(owner.step(first())).await;
    let gap = store.commit(owner.step(gap)).await;
    let uncounted = store.commit(owner.step(uncounted)).await;
    let follows = store.commit(owner.step(second())).await;

    for refused in [again, gap, uncounted] {
        assert!(matches!(refused, Err(CommitError::Store(StoreError::Broken(_)))), "{refused:?}");
    }
    assert!(follows.is_ok(), "{follows:?}");
}

#[tokio::test]
async fn runs_from_another_connection_refuse_tampering() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    fill(&store, 2).await;
    drop(store);
    let mut connection = raw(folder.path());
    let before = runs(folder.path());

    let statements = [
        "UPDATE audit_runs SET base_entry = base_entry + 1",
        "UPDATE audit_runs SET entries = entries + 1",
        "DELETE FROM audit_runs",
        "INSERT OR REPLACE INTO audit_runs SELECT * FROM audit_runs",
        "INSERT INTO audit_runs SELECT lane, first_index + 1, base_entry, 1 FROM audit_runs",
    ];
    for statement in statements {
        let answer = connection.batch_execute(statement).unwrap_err().to_string();

        assert!(answer.starts_with("horizons: "), "{statement}: {answer}");
    }
    assert_eq!(runs(folder.path()), before);
}

#[tokio::test]
async fn runs_tampered_without_triggers_are_found_by_verify() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    fill(&store, 4).await;
    drop(store);
    assert_verified(folder.path(), Exit::Done, "untouched");
    let one = "WHERE lane = (SELECT min(lane) FROM audit_runs) AND first_index";
    let statements = [
        format!("DELETE FROM audit_runs {one} = 0"),
        format!("DELETE FROM audit_runs {one} = 3"),
        format!("DELETE FROM audit_runs {one} = 9"),
        "DELETE FROM audit_runs".to_owned(),
        format!("UPDATE audit_runs SET base_entry = base_entry + 1 {one} = 3"),
        format!("UPDATE audit_runs SET base_entry = base_entry + 100 {one} = 3"),
        format!("UPDATE audit_runs SET entries = entries - 1 {one} = 3"),
        format!("UPDATE audit_runs SET entries = entries + 1 {one} = 3"),
        format!("UPDATE audit_runs SET entries = entries + 1 {one} = 9"),
        format!("UPDATE audit_runs SET entries = entries - 1 {one} = 9"),
        format!("UPDATE audit_runs SET first_index = first_index + 1 {one} = 3"),
        format!("UPDATE audit_runs SET first_index = first_index + 1 {one} = 9"),
        format!(
            "UPDATE audit_runs SET lane = (SELECT max(lane) FROM audit_runs), first_index = 12 {one} = 9"
        ),
        format!("INSERT INTO audit_runs SELECT lane, 4, base_entry + 1, 2 FROM audit_runs {one} = 3"),
        format!("INSERT INTO audit_runs SELECT lane, 10, base_entry + 1, 2 FROM audit_runs {one} = 9"),
    ];

    for statement in statements {
        let copy = TempDir::new().unwrap();
        std::fs::copy(folder.path().join("horizons.db"), copy.path().join("horizons.db")).unwrap();
        let without_triggers = "DROP TRIGGER audit_runs_refuse_update; DROP TRIGGER audit_runs_refuse_delete;
             DROP TRIGGER audit_runs_refuse_overlap;";
        let mut connection = raw(copy.path());
        connection.batch_execute(without_triggers).unwrap();
        let changed = diesel::sql_query(&statement).execute(&mut connection).unwrap();
        drop(connection);

        assert!(changed > 0, "{statement}");
        assert_verified(copy.path(), Exit::Failed, &statement);
    }
}

/// Makes the file of a version that had no runs, with batches of two lanes in it.
fn write_old_store(folder: &Path, log_id: &LogId, batches: usize) {
    let mut connection = raw(folder);
    connection.applied_migrations().unwrap();
    for migration in MigrationSource::<Sqlite>::migrations(&MIGRATIONS).unwrap() {
        if migration.name().version().to_string().as_str() < RUNS_VERSION {
            connection.run_migration(&*migration).unwrap();
        }
    }
    diesel::sql_query("INSERT INTO store_identity (one, log_id, created_at) VALUES (1, ?, 0)")
        .bind::<Text, _>(log_id.as_str())
        .execute(&mut connection)
        .unwrap();
    for number in 0..2_u16 {
        let row = i64::from(number) + 1;
        diesel::sql_query(
            "INSERT INTO lanes (lane, log_id, group_name, topic, partition) VALUES (?, ?, ?, ?, ?)",
        )
        .bind::<BigInt, _>(row)
        .bind::<Text, _>(log_id.as_str())
        .bind::<Text, _>(lane(number).group.as_str())
        .bind::<BigInt, _>(i64::from(Topic::JobLifecycle.code()))
        .bind::<BigInt, _>(i64::from(number))
        .execute(&mut connection)
        .unwrap();
        let mut log = None;
        for _ in 0..batches {
            let effects = append(log_id, &lane(number), log);
            insert_old_entries(&mut connection, row, &effects);
            log = Some(log_of(&effects));
        }
        let Some(log) = log else { continue };
        diesel::sql_query("INSERT INTO audit_logs VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind::<BigInt, _>(row)
            .bind::<BigInt, _>(log.size.cast_signed())
            .bind::<Binary, _>(log.chain_head.as_slice())
            .bind::<Binary, _>(log.frontier.concat())
            .bind::<Nullable<BigInt>, _>(log.last_offset.map(|offset| offset.0.cast_signed()))
            .bind::<BigInt, _>(log.segment.number.cast_signed())
            .bind::<BigInt, _>(log.segment.first_index.cast_signed())
            .bind::<BigInt, _>(log.segment.opened_at.as_micros())
            .execute(&mut connection)
            .unwrap();
    }
}

/// Inserts entries under the numbers that pack lane and index.
fn insert_old_entries(connection: &mut SqliteConnection, lane: i64, effects: &Effects) {
    for entry in &effects.audit_entries {
        let number = (lane << 40) | entry.index.cast_signed();
        diesel::sql_query("INSERT INTO audit_entries VALUES (?, ?, ?, ?, ?, ?)")
            .bind::<BigInt, _>(number)
            .bind::<BigInt, _>(entry.record.offset.0.cast_signed())
            .bind::<Binary, _>(entry.leaf_hash.as_slice())
            .bind::<Binary, _>(entry.chain_hash.as_slice())
            .bind::<Text, _>(entry.mark.to_stored())
            .bind::<BigInt, _>(entry.appended_at.as_micros())
            .execute(connection)
            .unwrap();
        diesel::sql_query("INSERT INTO audit_bodies VALUES (?, ?, ?, ?, ?, ?)")
            .bind::<BigInt, _>(number)
            .bind::<BigInt, _>(entry.record.timestamp.as_micros())
            .bind::<diesel::sql_types::Integer, _>(i32::from(entry.record.timestamp_type.code()))
            .bind::<Nullable<Binary>, _>(entry.record.key.as_deref())
            .bind::<Binary, _>(entry.record.headers.as_block().to_vec())
            .bind::<Nullable<Binary>, _>(entry.record.payload.as_deref())
            .execute(connection)
            .unwrap();
    }
}

#[tokio::test]
async fn open_store_of_older_version_keeps_its_audit_log_and_appends_to_it() {
    let folder = TempDir::new().unwrap();
    let log_id = LogId::parse("2b0e3c1e-0000-4000-8000-000000000001").unwrap();
    write_old_store(folder.path(), &log_id, 2);

    let store = open(folder.path());
    let carried = read_all(&store, 4).await;
    fill(&store, 2).await;
    let grown = read_all(&store, 5).await;
    drop(store);

    assert_eq!(carried, wanted(2));
    assert_eq!(grown, wanted(4));
    let next = (2 << 40) + 6;
    let first = [(1, 0, 1 << 40, 6), (1, 6, next, 3), (1, 9, next + 6, 3)];
    let second = [(2, 0, 2 << 40, 6), (2, 6, next + 3, 3), (2, 9, next + 9, 3)];
    assert_eq!(runs(folder.path()), [first, second].concat());
    assert_verified(folder.path(), Exit::Done, "carried over and grown");
}

#[tokio::test]
async fn open_store_of_older_version_that_was_tampered_with_is_found_by_verify() {
    for statement in [
        "DROP TRIGGER audit_entries_refuse_delete; DELETE FROM audit_entries WHERE entry = (1 << 40) + 2",
        "DROP TRIGGER audit_bodies_refuse_update; UPDATE audit_bodies SET payload = x'00' WHERE entry = 1 << 40",
    ] {
        let folder = TempDir::new().unwrap();
        write_old_store(folder.path(), &LogId::parse("log-1").unwrap(), 2);
        raw(folder.path()).batch_execute(statement).unwrap();

        drop(open(folder.path()));

        assert_verified(folder.path(), Exit::Failed, statement);
    }
}

#[tokio::test]
async fn revert_of_runs_numbers_by_lane_and_index_again() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    fill(&store, 3).await;
    drop(store);
    let mut connection = raw(folder.path());

    loop {
        let reverted = connection.revert_last_migration(MIGRATIONS).unwrap();
        if reverted.to_string() == RUNS_VERSION {
            break;
        }
    }
    drop(connection);
    let store = open(folder.path());
    let found = read_all(&store, 100).await;
    drop(store);

    assert_eq!(found, wanted(3));
    let packed: Vec<_> =
        runs(folder.path()).into_iter().map(|run| (run.1, run.2 - (run.0 << 40), run.3)).collect();
    assert_eq!(packed, [(0, 0, 9), (0, 0, 9)]);
    assert_verified(folder.path(), Exit::Done, "numbered again");
}

//! A full disk: the database's folder on a small file system that is filled and then freed.
//!
//! Mounting needs the right to; without it the test fails and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::stage::{Engine, Stage, place_on, unique};
use crate::process::full_disk;
use crate::process::load::Load;
use crate::process::place::{Place, Rows};
use crate::process::random::Random;
use crate::process::server::{World, pass};
use crate::services::kafka::Kafka;
use crate::services::postgres::Cluster;

/// How long the disk stays full.
const FULL: Duration = Duration::from_secs(3);

/// A small file system in memory over a folder; what was there is there again.
struct SmallDisk(PathBuf);

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "`{program} {}` failed: {said}", arguments.join(" "));
}

impl SmallDisk {
    fn over(folder: &Path, mebibytes: u32) -> Self {
        let text = folder.display().to_string();
        let aside = format!("{text}.aside");
        fs::create_dir_all(folder).unwrap();
        run("cp", &["-a", &text, &aside]);
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs", &text]);
        run("cp", &["-a", &format!("{aside}/."), &text]);
        fs::remove_dir_all(&aside).unwrap();
        Self(folder.to_owned())
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let piece = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: somebody may still look into it. A failure leaves a mount in a folder of a failed test.
        let _ = Command::new("umount").args(["--lazy", &self.0.display().to_string()]).status();
    }
}

#[test]
fn disk_of_sqlite_full_and_freed_recovers_by_itself() {
    let random = Random::seeded("full disk of SQLite");
    let world = World::at(place_on(Engine::Sqlite, Kafka::shared()), "", "slots = 4\n");
    let disk = SmallDisk::over(&world.data(), 64);
    world.create_topics();
    let server = world.serve();
    let mut stage = Stage { world, load: Load::default(), random, server };
    stage.while_working(|on| on.wait_until_it_works());

    let took = stage.while_working(|on| {
        disk.fill();
        pass(FULL);
        disk.free();
        on.wait_until_it_works()
    });
    println!("SQLite's disk full for {FULL:?}: works after {took:?}");
    stage.finish();
}

/// Rows and events are elsewhere: what agents write is what can fill the disk.
#[test]
fn data_folder_filled_by_a_job_beside_postgres_and_kafka_recovers_by_itself() {
    let world = full_disk::world_at(place_on(Engine::Postgres, Kafka::shared()));
    world.create_topics();
    full_disk::fill_and_end(&world, "flood");
}

#[test]
fn disk_of_postgres_full_and_freed_recovers_by_itself() {
    let mut cluster = Cluster::start();
    cluster.kill();
    let disk = SmallDisk::over(&cluster.folder().join("data"), 256);
    cluster.restart();
    let url = cluster.url();
    let place = place_on(Engine::Sqlite, Kafka::shared());
    let rows = Rows::Postgres { direct: url.clone(), url, schema: unique() };
    let mut stage = Stage::at("full disk of PostgreSQL", Place { rows, ..place });
    stage.while_working(|on| on.wait_until_it_works());

    let took = stage.while_working(|on| {
        disk.fill();
        pass(FULL);
        disk.free();
        // A server that could not write its log has ended itself; whoever runs it starts it again.
        if !cluster.folder().join("data/postmaster.pid").exists() {
            cluster.restart();
        }
        on.wait_until_it_works()
    });
    println!("PostgreSQL's disk full for {FULL:?}: works after {took:?}");
    stage.finish();
}

//! What a machine does to a program: a clear message, a clear exit code, and nothing damaged.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use horizons::exit::Exit;
use serde_json::json;

use super::client::{Answer, Client};
use super::crash::{settle, settle_and_check};
use super::load::Load;
use super::random::Random;
use super::server::{World, wait_for};

/// A record this large fills a disk quickly and stays below the limit of a body.
const LARGE: usize = 600 << 10;

fn code(exit: Exit) -> Option<i32> {
    Some(i32::from(exit.code()))
}

/// Appends large records until one is not taken.
fn fill(client: Client) -> std::io::Result<Answer> {
    let large = vec![b'x'; LARGE];
    loop {
        let answer = client.append("notifications", None, &large, json!({}))?;
        if answer.status != 201 {
            return Ok(answer);
        }
    }
}

/// Runs a few jobs to their end and stops in order.
fn used_world(load: &Load) -> World {
    let world = World::new();
    let server = world.serve();
    for agent in ["quick", "fail", "quick"] {
        assert!(load.submit_new(server.client(), agent));
    }
    settle(&world);
    server.stop();
    world
}

/// Serves again and has the folder judged.
fn goes_on(world: &World, load: &Load) {
    let server = world.serve();
    assert!(load.submit_new(server.client(), "quick"));
    settle_and_check(world, load, server, &mut Random::of(1));
}

#[test]
fn serve_port_in_use_ends_as_occupied_and_touches_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let world = World::with(&format!("[http]\nlisten = \"{address}\"\n"), "slots = 1\n");

    let (exit, said) = world.serve_in_vain();

    assert_eq!(exit, code(Exit::Occupied), "{said}");
    assert!(said.contains("`http.listen`") && said.contains(&address.to_string()), "{said}");
    assert!(!world.data().exists());
}

#[test]
fn serve_second_one_on_the_folder_ends_as_occupied_and_disturbs_nothing() {
    let world = World::new();
    let load = Load::default();
    let server = world.serve();
    assert!(load.submit_new(server.client(), "slow"));

    let (exit, said) = world.serve_in_vain();

    assert_eq!(exit, code(Exit::Occupied), "{said}");
    let holder = format!("process {} has it", server.pid());
    assert!(said.contains(&holder), "wanted {holder}: {said}");
    assert!(load.submit_new(server.client(), "quick"));
    settle_and_check(&world, &load, server, &mut Random::of(1));
}

#[test]
fn serve_corrupt_configuration_names_every_problem_and_touches_nothing() {
    let world = World::new();
    for (text, named) in [
        ("[http\n", vec!["config.toml"]),
        ("[store]\nfoldr = \"data\"\n[lanes]\narbiters = 0\n", vec!["store.foldr", "lanes.arbiters"]),
        ("\u{0}\u{1}\u{2}", vec!["config.toml"]),
    ] {
        fs::write(world.config(), text).unwrap();

        let (exit, said) = world.serve_in_vain();

        assert_eq!(exit, code(Exit::Config), "{said}");
        assert!(named.iter().all(|name| said.contains(name)), "{said}");
        assert!(!world.data().exists());
    }
}

#[test]
fn serve_damaged_database_ends_as_store_and_changes_nothing() {
    let load = Load::default();
    let world = used_world(&load);
    let file = world.data().join("horizons.db");
    let whole = fs::read(&file).unwrap();
    let mut wrong_header = whole.clone();
    wrong_header[..100].fill(0x5a);
    let mut wrong_schema = whole.clone();
    wrong_schema[100..8192].fill(0x5a);
    for damaged in [wrong_header, wrong_schema, b"not a database".repeat(1000)] {
        fs::write(&file, &damaged).unwrap();

        let (exit, said) = world.serve_in_vain();

        assert_eq!(exit, code(Exit::Store), "{said}");
        assert!(said.contains("horizons.db") && said.contains("restore it from a backup"), "{said}");
        assert!(fs::read(&file).unwrap() == damaged, "the file was changed");
    }
    fs::write(&file, whole).unwrap();
    goes_on(&world, &load);
}

#[test]
fn serve_read_only_database_ends_as_store_and_changes_nothing() {
    let load = Load::default();
    let world = used_world(&load);
    let file = world.data().join("horizons.db");
    let before = fs::read(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();

    let (exit, said) = world.serve_in_vain();

    assert_eq!(exit, code(Exit::Store), "{said}");
    assert!(said.contains("read-only"), "{said}");
    assert!(fs::read(&file).unwrap() == before, "the file was changed");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    goes_on(&world, &load);
}

#[test]
fn serve_folder_that_cannot_be_made_ends_as_store() {
    let world = World::with("[store]\nfolder = \"file/data\"\n", "slots = 1\n");
    fs::write(world.folder().join("file"), "in the way").unwrap();

    let (exit, said) = world.serve_in_vain();

    assert_eq!(exit, code(Exit::Store), "{said}");
    assert!(said.contains("file/data"), "{said}");
}

#[test]
fn disk_limit_reached_refuses_new_work_and_ends_the_old() {
    let sections = "[store]\nfolder = \"data\"\ndisk_limit_bytes = 16777216\ndisk_reserve_bytes = 8388608\n";
    let world = World::with(sections, "slots = 2\n");
    let load = Load::default();
    let server = world.serve();
    let client = server.client();
    assert!(load.submit_new(client, "slow"));

    let refused = fill(client).unwrap();

    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("disk limit"), "{refused:?}");
    assert_eq!(client.submit("late", "quick", "data-1").unwrap().status, 503);
    wait_for("the accepted job's end", || client.get("/jobs").json()["jobs"][0]["status"] == "COMPLETED");
    settle_and_check(&world, &load, server, &mut Random::of(1));
}

/// A small file system of its own, for as long as it is held.
pub(super) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts one; none where that is not allowed.
    pub(super) fn mount(folder: &'a Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder);
        command.status().is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Whatever still uses it keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn disk_full_answers_later_and_goes_on_when_there_is_room() {
    let world = World::new();
    let data = world.data();
    let Some(_disk) = SmallDisk::mount(&data, 24 << 20) else {
        // Only root may mount one; a limit on the size of files is the nearest that anybody can have.
        return refused_writes();
    };
    let load = Load::default();
    let mut server = world.serve();
    let client = server.client();
    assert!(load.submit_new(client, "quick"));
    settle(&world);
    // Room that will be given back.
    fs::write(data.join("filler"), vec![0_u8; 8 << 20]).unwrap();

    let refused = fill(client).unwrap();

    assert_eq!(refused.status, 503, "{refused:?}");
    // Whether it is sent away or taken and carried out later: it is judged at the end.
    assert!(load.submit_new(client, "quick"), "{}", server.said());
    assert!(server.is_running(), "{}", server.said());
    fs::remove_file(data.join("filler")).unwrap();
    wait_for("new work to be taken", || {
        client.append("notifications", None, b"small", json!({})).unwrap().status == 201
    });
    assert!(load.submit_new(client, "quick"));
    settle_and_check(&world, &load, server, &mut Random::of(1));
}

#[test]
fn disk_refusing_writes_loses_nothing_that_was_answered() {
    refused_writes();
}

/// Serves under a limit on the size of files: SQLite takes it for a broken disk.
fn refused_writes() {
    let load = Load::default();
    let world = used_world(&load);
    let mut server = world.spawn_limited(8 << 20);
    server.wait_until_ready();
    let client = server.client();
    assert!(load.submit_new(client, "quick"));

    let refused = fill(client);

    println!("beyond the limit: {:?}", refused.as_ref().map(|answer| answer.status));
    match refused {
        // Nothing is known of what a failed sync has written: the process must not go on.
        Err(_) => assert_eq!(server.wait_for_exit().code(), code(Exit::NotDurable), "{}", server.said()),
        Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
    }
    assert!(server.said().contains("disk"), "{}", server.said());
    server.kill();
    goes_on(&world, &load);
}

//! The audit trail where no server runs: the folder itself, and copies of it that nobody may write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use horizons::exit::Exit;

use super::server::World;

fn assert_exit(output: &Output, exit: Exit) {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{said}");
}

/// Runs a job to its end, so that there is a trail.
fn leave_a_trail(world: &World, kill: bool) {
    let server = world.serve();
    assert_exit(&world.cli(&server, &["jobs", "submit", "quick", "data-1", "--wait"]), Exit::Done);
    if kill { server.kill() } else { server.stop() }
}

/// Copies the database of a folder, as evidence is secured, and takes everybody's right to write it.
fn secure(world: &World) -> PathBuf {
    let copy = world.folder().join("evidence");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(world.data()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("horizons.db") {
            let to = copy.join(entry.file_name());
            fs::copy(entry.path(), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o555)).unwrap();
    copy
}

/// Verifies a folder as somebody whom modes bind: root is, once it has given up its capabilities.
fn verify_bound(world: &World, folder: &Path) -> Output {
    let program = world.command(&["audit", "verify", "--data", folder.to_str().unwrap()]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(program.get_program());
    if !nix::unistd::geteuid().is_root() {
        command = Command::new(program.get_program());
    }
    command.args(program.get_args()).current_dir(world.folder()).output().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn verify_without_a_server_reads_the_folder_that_serve_would_use() {
    let world = World::new();
    leave_a_trail(&world, false);

    let unnamed = world.command(&["audit", "verify"]).output().unwrap();
    let named = world.command(&["audit", "verify", "--data", "data"]).output().unwrap();
    let query = world.command(&["audit", "query", "--json"]).output().unwrap();
    let elsewhere = world.command(&["audit", "verify", "--url", "http://127.0.0.1:1"]).output().unwrap();

    assert_exit(&unnamed, Exit::Done);
    assert_eq!(unnamed.stdout, named.stdout);
    assert!(!unnamed.stdout.is_empty());
    let said = String::from_utf8_lossy(&unnamed.stderr);
    assert!(said.contains("no server answers: this is read from the folder `data`"), "{said}");
    assert_exit(&query, Exit::Done);
    assert!(!query.stdout.is_empty());
    // Who names a server is told that it does not answer.
    assert_exit(&elsewhere, Exit::Unreachable);
}

#[test]
fn verify_evidence_that_nobody_may_write_leaves_it_as_it_is() {
    let world = World::new();
    leave_a_trail(&world, false);
    let copy = secure(&world);
    let before = (names(&copy), fs::read(copy.join("horizons.db")).unwrap());

    let output = verify_bound(&world, &copy);

    assert_exit(&output, Exit::Done);
    let there = world.command(&["audit", "verify", "--data", "data"]).output().unwrap();
    assert_eq!(output.stdout, there.stdout);
    assert_eq!((names(&copy), fs::read(copy.join("horizons.db")).unwrap()), before);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn verify_evidence_with_an_unread_log_says_what_to_do() {
    let world = World::new();
    leave_a_trail(&world, true);
    let copy = secure(&world);

    let output = verify_bound(&world, &copy);

    assert_exit(&output, Exit::Store);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("changes stand in a write-ahead log beside it"), "{said}");
    assert!(said.contains("copy the folder to where it may be, and read the copy"), "{said}");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
}

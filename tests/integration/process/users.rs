//! Who the program runs as, and who its agents do.
//!
//! Becoming somebody else needs root; without it these tests fail and say so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use horizons::exit::Exit;
use nix::unistd::{User, geteuid};

use super::client::Client;
use super::server::{World, wait_for};

/// Debian's user without rights.
const NOBODY: &str = "nobody";

fn is_clean(world: &World) -> bool {
    fs::read_dir(world.data().join("attempts")).unwrap().count() == 0
}

fn submit(client: Client, agent: &str) -> String {
    let answer = client.submit(agent, agent, "data-1").unwrap();
    assert!((200..=202).contains(&answer.status), "{answer:?}");
    answer.job_id()
}

fn status(client: Client, job: &str) -> String {
    client.get(&format!("/jobs/{job}")).json()["job"]["status"].as_str().unwrap().to_owned()
}

fn wait_until_completed(client: Client, job: &str) {
    wait_for("the job's end", || !["SUBMITTED", "QUEUED", "RUNNING"].contains(&status(client, job).as_str()));
    let job = client.get(&format!("/jobs/{job}")).json();
    assert_eq!(job["job"]["status"], "COMPLETED", "{job}");
}

#[test]
fn work_folder_with_closed_folders_is_removed_by_a_server_without_rights() {
    assert!(geteuid().is_root(), "becoming somebody else needs root");
    let kept = tempfile::tempdir().unwrap();
    let outside = kept.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(kept.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o777)).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    let sections = format!(
        r#"
[jobs]
clean_after_ms = 0
[agents.closed]
program = "/bin/sh"
arguments = ["-c", "mkdir -p a/b/c locked/in; echo x > a/b/file; ln -s {} a/link; ln -s .. locked/in/up; chmod 555 a/b a; chmod 0 locked"]
"#,
        outside.display()
    );
    let world = World::with(&sections, "slots = 1\n");
    let mut server = world.spawn_as(NOBODY);
    server.wait_until_ready();

    let job = submit(server.client(), "closed");
    wait_until_completed(server.client(), &job);

    wait_for("the work folder to go", || is_clean(&world));
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    server.stop();
}

#[test]
fn agent_that_runs_as_another_reads_and_writes_what_is_its_own_alone() {
    assert!(geteuid().is_root(), "becoming somebody else needs root");
    let nobody = User::from_name(NOBODY).unwrap().unwrap();
    let script = "id -u; id -g; id -G; echo $HOME; cat $2; echo; \
        cat ../../../horizons.db ../attempt.json ../claim.json ../agent.json 2>/dev/null; \
        ls ../.. ../../.. 2>/dev/null; touch ../made ../../made 2>/dev/null; \
        touch made && cat $PWD/made && echo wrote; echo more >> /dev/stdout; \
        kill -0 $PPID 2>/dev/null && echo mighty; true";
    let sections = format!(
        "[agents.other]\nprogram = \"/bin/sh\"\nrun_as = \"{NOBODY}\"\n\
         arguments = [\"-c\", {}, \"other\", \"{{dataset_id}}\", \"{{parameters_file}}\"]\n",
        serde_json::to_string(script).unwrap()
    );
    let world = World::with(&sections, "slots = 1\n");
    fs::set_permissions(world.folder(), Permissions::from_mode(0o711)).unwrap();
    let server = world.serve();

    let job = submit(server.client(), "other");
    wait_until_completed(server.client(), &job);

    let folder = fs::read_dir(world.data().join("attempts")).unwrap().next().unwrap().unwrap().path();
    let said = fs::read_to_string(folder.join("stdout")).unwrap();
    let (uid, gid) = (nobody.uid, nobody.gid);
    let home = nobody.dir.display();
    assert_eq!(said, format!("{uid}\n{gid}\n{gid}\n{home}\n{{}}\nwrote\nmore\n"));
    assert!(folder.join("work/made").exists() && !folder.join("made").exists());
    assert!(folder.join("result.json").exists());
    server.stop();
}

#[test]
fn server_that_may_not_run_agents_as_others_says_so_and_does_not_start() {
    assert!(geteuid().is_root(), "becoming somebody else needs root");
    let sections = "[agents.other]\nprogram = \"/bin/true\"\nrun_as = \"root\"\n";
    let world = World::with(sections, "slots = 1\n");

    let mut server = world.spawn_as(NOBODY);

    assert_eq!(server.wait_for_exit().code(), Some(i32::from(Exit::Config.code())), "{}", server.said());
    let said = server.said();
    assert!(said.contains("agents.other.run_as") && said.contains("CAP_SETUID"), "{said}");
}

#[test]
fn agents_that_can_read_the_data_folder_are_named_at_the_start_and_by_the_check() {
    let sections = "[agents.unknown]\nprogram = \"/bin/true\"\nrun_as = \"no-such-user\"\n";
    let world = World::with("", "slots = 1\n");

    let server = world.serve();
    let checked = world.command(&["config", "check", "--config", "config.toml"]).output().unwrap();
    world.configure(sections, "slots = 1\n");
    let refused = world.command(&["config", "check", "--config", "config.toml"]).output().unwrap();

    let warning = "agents that run as the user of `serve` can read the data folder: `fail`, `long`";
    assert!(server.said().contains(warning), "{}", server.said());
    let text =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && text.contains(warning), "{text}");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(i32::from(Exit::Config.code())));
    assert!(text.contains("agents.unknown.run_as") && text.contains("`no-such-user`"), "{text}");
    server.stop();
}

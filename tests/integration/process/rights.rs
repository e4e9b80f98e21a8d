//! Who may read what is in the data folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::server::{World, wait_for};

/// Lists a folder and what is in it, but for what agents made themselves.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.ends_with("work") {
            true => all.extend(tree(&path)),
            false => all.push(path),
        }
    }
    all
}

/// Lists what is in the data folder that others than its owner can get at: what is below a closed folder is closed.
fn open_to_others(data: &Path) -> Vec<String> {
    let is_open = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077 != 0;
    let is_reached = |path: &Path| {
        let attempts = data.join("attempts");
        path.starts_with(&attempts)
            .then(|| path.ancestors().skip(1).take_while(|above| above.starts_with(&attempts)))
            .is_none_or(|mut above| above.all(is_open))
    };
    let open = tree(data).into_iter().filter(|path| is_open(path) && is_reached(path));
    open.map(|path| path.display().to_string()).collect()
}

/// Runs a server under a umask, with a job, and stops it after looking.
fn look_under(umask: &str, world: &World) {
    let mut server = world.spawn_under_umask(umask);
    server.wait_until_ready();
    let client = server.client();
    let job = client.post("/jobs", &json!({"agent": "quick", "dataset_id": "d"})).unwrap().job_id();
    wait_for("the job to complete", || {
        client.get(&format!("/jobs/{job}")).json()["job"]["status"] == "COMPLETED"
    });

    assert_eq!(open_to_others(&world.data()), Vec::<String>::new(), "umask {umask}");
    for name in ["horizons.db", "horizons.db-wal", "horizons.db-shm", "lock", "trials", "attempts"] {
        assert!(world.data().join(name).exists(), "{name}");
    }
    server.stop();
}

#[test]
fn data_folder_is_its_owners_alone_whatever_the_umask() {
    for umask in ["022", "000"] {
        look_under(umask, &World::new());
    }
}

#[test]
fn data_folder_of_an_older_installation_is_closed_at_the_next_start() {
    let world = World::new();
    world.serve().stop();
    // The ballast holds nothing, and older installations have none.
    for path in tree(&world.data()).into_iter().filter(|path| !path.ends_with("ballast")) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    look_under("022", &world);
}

//! Jobs of other producers, which may never end.

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;
use horizons_actors::testkit::EventBuilder;

use super::client::Client;
use super::load::parts;
use super::server::{World, wait_for};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

fn count(world: &World, from: &str) -> i64 {
    let file = world.data().join("horizons.db");
    let mut connection = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    let select = diesel::sql_query(format!("SELECT count(*) AS count FROM {from}"));
    // The server may hold the file for a moment.
    select.get_result::<Count>(&mut connection).map_or(-1, |row| row.count)
}

fn append(client: Client, job: &str, event: EventBuilder) {
    let (payload, headers) = parts(event.job(job));
    let answer = client.append("job-lifecycle", Some(job.as_bytes()), &payload, headers).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn status_of(client: Client, job: &str) -> Option<String> {
    let answer = client.send("GET", &format!("/jobs/{job}"), &[], None).ok()?;
    let status = answer.json()["job"]["status"].as_str().map(str::to_owned);
    status.filter(|_| answer.status == 200)
}

#[test]
fn views_of_other_producers_jobs_end_and_a_late_event_begins_anew() {
    let world =
        World::with("[jobs]\nexternal_silent_ms = 1500\nexternal_forgotten_ms = 6000\n", "slots = 1\n");
    let server = world.serve();
    let client = server.client();

    append(client, "silent", EventBuilder::job_submitted().sequence(1));
    wait_for("the job to be followed", || count(&world, "live_job_views") == 1);
    wait_for("the job to be left", || count(&world, "live_job_views") == 0);
    let left = status_of(client, "silent");
    append(client, "silent", EventBuilder::job_running().sequence(3));
    wait_for("the job to be followed again", || count(&world, "live_job_views") == 1);
    let again = status_of(client, "silent");
    wait_for("the job to be forgotten", || status_of(client, "silent").is_none());
    wait_for("its rows to go", || {
        count(&world, "job_timeline") == 0 && count(&world, "timers WHERE kind = 'external'") == 0
    });
    append(client, "silent", EventBuilder::job_completed().sequence(2));
    wait_for("the late event", || status_of(client, "silent").is_some());

    assert_eq!((left.as_deref(), again.as_deref()), (Some("SUBMITTED"), Some("RUNNING")));
    assert_eq!(status_of(client, "silent").as_deref(), Some("COMPLETED"));
    assert_eq!(count(&world, "live_job_views"), 0);
    server.stop();
}

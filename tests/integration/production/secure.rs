//! The whole program through TLS and SCRAM.

use super::stage::{Engine, Stage, place_on};
use crate::process::place::{Events, Place};
use crate::process::server::World;
use crate::services::kafka::Kafka;

/// Gives a place that is reached through the secure listener, with a password.
fn secure_place(password: &str) -> Place {
    let kafka = Kafka::shared();
    let secure = kafka.secure().expect("the shared cluster has a secure listener");
    let mut place = place_on(Engine::Postgres, kafka)
        .with("HORIZONS_KAFKA_SECURITY", "sasl_tls")
        .with("HORIZONS_KAFKA_CA_FILE", secure.authority.display())
        .with("HORIZONS_KAFKA_SASL_MECHANISM", "scram-sha-512")
        .with("HORIZONS_KAFKA_SASL_USER", &secure.user)
        .with("HORIZONS_KAFKA_SASL_PASSWORD", password);
    if let Events::Kafka { bootstrap, .. } = &mut place.events {
        *bootstrap = secure.bootstrap;
    }
    place
}

#[test]
fn jobs_through_tls_and_scram_live_their_whole_lives() {
    let password = Kafka::shared().secure().expect("the shared cluster has a secure listener").password;
    let mut stage = Stage::at("secure", secure_place(&password));

    let took = stage.while_working(|on| on.wait_until_it_works());

    println!("through TLS and SCRAM: {took:?}");
    assert!(!stage.server.said().contains(&password), "the password was logged");
    stage.finish();
}

#[test]
fn topics_with_a_wrong_password_are_refused_and_the_password_is_not_shown() {
    let world = World::at(secure_place("not-the-password"), "", "");

    let output = world.command(&["topics", "create", "--config", "config.toml"]).output().unwrap();

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(!said.contains("not-the-password"), "{said}");
}

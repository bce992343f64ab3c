//! Starting: the readiness that systemd waits for, the health that others ask for, the one daemon.

use stratavore_testkit::world::World;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{Daemon, Systemd, until_ready};

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let world = World::new();
    let systemd = Systemd::listen(&world);
    let daemon = Daemon::start(&world, |command| {
        command.env("NOTIFY_SOCKET", systemd.path());
    });
    assert_eq!(systemd.told(), "READY=1");
    assert!(world.path("run/d.sock").exists(), "ready is said when clients can connect");

    stratavore_testkit::world::signal(daemon.pid(), rustix::process::Signal::TERM);
    assert_eq!(systemd.told(), "STOPPING=1");
    let (code, said) = daemon.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_health_service_answers() {
    let world = World::new();
    let _daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    assert_eq!(health(&world).await, ServingStatus::Serving);
}

/// What the health service says.
pub(crate) async fn health(world: &World) -> ServingStatus {
    let path = world.path("run/d.sock");
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stratavore_proto::unix::connect(&path).map(hyper_util::rt::TokioIo::new);
            async move { stream }
        }))
        .await
        .expect("it connects");
    let answer =
        HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
    answer.expect("it answers").into_inner().status()
}

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    let world = World::new();
    let first = Daemon::start(&world, |_| {});
    until_ready(&world);
    let (code, said) = Daemon::start(&world, |_| {}).ended();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains(&format!("pid {}", first.pid())), "{said}");
    assert!(said.contains("next: "), "{said}");
    assert!(world.path("run/d.sock").exists(), "the first one's socket is left alone");
}

#[test]
fn the_sockets_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let _daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    for (path, mode) in [
        ("run/d.sock", 0o600),
        ("state/agents.sock", 0o600),
        ("state", 0o700),
        ("run", 0o700),
        ("state/runners", 0o700),
    ] {
        let found =
            std::fs::metadata(world.path(path)).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path} has mode {found:o}");
    }
}

#[test]
fn logs_can_be_json() {
    let mut world = World::new();
    world.set_env("STRATAVORE_DAEMON__LOG", "json");
    let daemon = Daemon::start(&world, |_| {});
    until_ready(&world);
    stratavore_testkit::world::signal(daemon.pid(), rustix::process::Signal::INT);
    let (code, said) = daemon.ended();
    assert_eq!(code, Some(0), "{said}");
    let ready = said
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON"));
    assert!(ready.into_iter().any(|line| line["message"] == "ready"), "{said}");
}

use super::*;
use std::time::{Duration, Instant};

fn names(test: &TestPostgres) -> String {
    test.address().psql("postgres", "SELECT datname FROM pg_database").unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::yield_now();
    }
}

#[test]
fn a_database_is_empty_usable_and_gone_afterwards() {
    let kept = database();
    let dropped = database();
    assert_eq!(dropped.query("SELECT count(*) FROM pg_stat_user_tables"), "0");
    dropped.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)");
    assert_eq!(dropped.query("SELECT sum(n) FROM t"), "3");
    assert_eq!(kept.query("SELECT to_regclass('t') IS NULL"), "t", "databases are apart");

    let name = dropped.database.clone();
    assert!(names(&kept).contains(&name), "the control: it is listed while it lives");
    drop(dropped);
    assert!(!names(&kept).contains(&name), "it is gone after its test");
}

#[test]
fn a_database_is_dropped_under_a_connected_client() {
    let kept = database();
    let dropped = database();
    let name = dropped.database.clone();
    let mut client = Command::new("psql")
        .arg(dropped.url())
        .args(["--no-psqlrc", "--quiet", "--command", "SELECT pg_sleep(600)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the client is connected", || {
        let connected = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
        kept.query(&connected) != "0"
    });
    drop(dropped);
    assert!(!client.wait().unwrap().success(), "the client is cut off");
    assert!(!names(&kept).contains(&name));
}

#[test]
fn databases_are_made_in_parallel() {
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(database)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut names: Vec<_> = made.iter().map(|test| test.database.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 12);
    assert_eq!(
        made[0].query("SELECT setting::int >= 100 FROM pg_settings WHERE name = 'max_connections'"),
        "t"
    );
}

#[test]
fn a_server_goes_with_its_directory_when_it_is_dropped() {
    let server = Server::start().unwrap();
    let address = Address::parse(&server.to_string()).unwrap();
    assert_eq!(address, server.address, "it displays as the variable's value");
    assert_eq!(address.psql("postgres", "SHOW listen_addresses").unwrap(), "", "no TCP");
    drop(server);
    assert!(!address.socket_dir.exists());
    assert!(address.psql("postgres", "SELECT 1").is_err());
}

#[test]
fn a_server_goes_when_its_guard_is_killed() {
    let mut server = Server::start().unwrap();
    let address = server.address.clone();
    address.execute("SELECT 1").unwrap();
    server.guard.kill().unwrap();
    until("the server stops without its guard", || address.execute("SELECT 1").is_err());
    std::fs::remove_dir_all(&address.socket_dir).unwrap();
}

#[test]
fn a_wrong_address_is_named() {
    for (text, named) in [
        ("host=localhost", "localhost"),
        ("port=5432", "host="),
        ("host=/tmp port=x", "`x`"),
        ("host=/tmp dbname=a", "`dbname=a`"),
    ] {
        let reason = Address::parse(text).unwrap_err();
        assert!(reason.contains(named), "{text}: {reason}");
    }
}

#[test]
fn a_durable_server_keeps_its_data_through_whatever_is_done_to_it() {
    let mut server = Durable::start();
    let database = server.database();
    database.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    assert_eq!(database.query("SHOW fsync"), "on");

    server.stop();
    database.try_query("SELECT 1").unwrap_err();
    server.start_again();
    database.query("INSERT INTO t VALUES (2)");

    server.kill();
    assert!(!server.runs());
    database.try_query("SELECT 1").unwrap_err();
    server.start_again();
    assert_eq!(database.query("SELECT sum(n) FROM t"), "3");

    server.freeze();
    let mut asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| database.try_query("SELECT 1"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished(), "nobody answers");
        server.thaw();
        asked.join().unwrap()
    });
    assert_eq!(asked.as_mut().unwrap(), "1");

    // One that is frozen goes as well.
    server.freeze();
    let directory = database.socket_dir.clone();
    drop(server);
    assert!(!directory.exists());
}

//! Row 59 of the fault catalogue: the broker's password, our certificate or the broker's CA is changed while
//! events go out.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stratavore_testkit::proxy::Proxy;
use stratavore_testkit::rabbit::{TlsListener, Vhost, vhost};
use stratavore_testkit::tls::Ca;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, until, until_within};

use crate::outbox::{Outlet, destination, projects, write};

/// The connections to a virtual host, as the broker names them.
fn connections(vhost: &Vhost) -> Vec<String> {
    let named = vhost.eval(
        "lists:sort([pid_to_list(P) || P <- rabbit_networking:connections(), \
         [{vhost, V}] <- [catch rabbit_networking:connection_info(P, [vhost])], V =:= VHOST]).",
    );
    named.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Changes what the broker takes as the user's password.
fn change(vhost: &Vhost, password: &str) {
    let user = &vhost.user;
    let done = vhost.eval(&format!(
        "rabbit_auth_backend_internal:change_password(<<\"{user}\">>, <<\"{password}\">>, <<\"tests\">>)."
    ));
    assert_eq!(done, "ok");
}

/// Changes the password at both, in either order. Answers how long it was until the daemon delivers by the
/// new one over another connection, and no longer over the one before.
fn rotate(outlet: &Outlet, world: &World, round: usize) -> Result<Duration, String> {
    let password = format!("another-{round}");
    let before = connections(&outlet.vhost);
    assert_eq!(before.len(), 2, "the daemon's and the consumer's: {before:?}");
    if round.is_multiple_of(2) {
        change(&outlet.vhost, &password);
        fs::write(&outlet.password, &password).unwrap();
    } else {
        fs::write(&outlet.password, &password).unwrap();
        until("the status tells that it is let in by neither", || {
            let told = destination(world).to_string();
            let kept = told.contains("the one before is kept") && told.contains("connected");
            if kept { Ok(()) } else { Err(told) }
        });
        assert_eq!(connections(&outlet.vhost), before, "the one before is kept");
        change(&outlet.vhost, &password);
    }
    replaced(&outlet.vhost, &before)
}

/// How long it is until the connections are others than before, and as many. At no time is there one less.
fn replaced(vhost: &Vhost, before: &[String]) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        let now = connections(vhost);
        if now.len() == 2 && now != before {
            return Ok(began.elapsed());
        }
        if now.len() < 2 || began.elapsed() > Duration::from_secs(15) {
            return Err(format!("before {before:?}, and now {now:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A broker that asks for certificates, and the files that a daemon shows and judges them by.
struct Certificates {
    /// Both of the broker and of those that it lets in.
    ca: Ca,
    roots: PathBuf,
    shown: PathBuf,
    key: PathBuf,
    _listener: TlsListener,
    _directory: tempfile::TempDir,
}

impl Certificates {
    /// From now on the daemon of `outlet` reaches the broker by TLS.
    fn of(outlet: &mut Outlet) -> Self {
        let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
        let listener = outlet.vhost.listen(&ca.server("127.0.0.1"), Some(&ca));
        outlet.wire = Proxy::tcp(listener.address());
        let [roots, shown, key] =
            ["roots.pem", "shown.pem", "key.pem"].map(|name| directory.path().join(name));
        fs::write(&roots, &ca.pem).unwrap();
        fs::write(&key, "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&key, mode).unwrap();
        let all = Self { ca, roots, shown, key, _listener: listener, _directory: directory };
        all.show("first");
        all
    }

    /// Puts another certificate and its key in the place of the ones before.
    fn show(&self, name: &str) {
        let next = self.ca.client(name);
        fs::write(&self.shown, next.certificate).unwrap();
        fs::write(&self.key, next.key).unwrap();
    }

    fn settings(&self) -> [String; 4] {
        [
            "tls: on".into(),
            format!("root_cert: {}", self.roots.display()),
            format!("client_cert: {}", self.shown.display()),
            format!("client_key_file: {}", self.key.display()),
        ]
    }

    /// Replaces the client's certificate, or the CAs that may speak for the broker: first by one that does
    /// not. Answers how long it was until the daemon delivers over another connection.
    fn rotate(&self, outlet: &Outlet, world: &World, round: usize) -> Result<Duration, String> {
        let before = connections(&outlet.vhost);
        assert_eq!(before.len(), 2, "the daemon's and the consumer's: {before:?}");
        if round.is_multiple_of(2) {
            let name = format!("renewed-{round}");
            self.show(&name);
            let took = replaced(&outlet.vhost, &before)?;
            let known = shown_names(&outlet.vhost);
            return match known.contains(&name) {
                true => Ok(took),
                false => Err(format!("the broker was shown {known}, and not {name}")),
            };
        }
        let other = Ca::new().pem;
        fs::write(&self.roots, &other).unwrap();
        until("the status tells that the broker is not trusted any more", || {
            let told = destination(world).to_string();
            let kept = told.contains("the one before is kept") && told.contains("connected");
            if kept { Ok(()) } else { Err(told) }
        });
        assert_eq!(connections(&outlet.vhost), before, "the one before is kept");
        fs::write(&self.roots, format!("{other}{}", self.ca.pem)).unwrap();
        replaced(&outlet.vhost, &before)
    }
}

/// Whose certificates the broker was shown over the connections to a virtual host.
fn shown_names(vhost: &Vhost) -> String {
    vhost.eval(
        "[binary_to_list(S) || P <- rabbit_networking:connections(), \
         [{vhost, V}, {peer_cert_subject, S}] <- \
         [catch rabbit_networking:connection_info(P, [vhost, peer_cert_subject])], \
         V =:= VHOST, is_binary(S)].",
    )
}

/// The longest time in which the consumer was given nothing.
fn longest_gap(outlet: &Outlet) -> Duration {
    let received = outlet.consumer.received();
    let times: Vec<f64> = received.iter().filter_map(|one| one.line["received"].as_f64()).collect();
    let gaps = times.windows(2).map(|two| two[1] - two[0]);
    Duration::from_secs_f64(gaps.fold(0.0, f64::max))
}

/// Has something replaced again and again while events go out: each arrives once and in order.
fn rotated_under_events(
    trial: &mut Trial,
    outlet: &Outlet,
    world: &World,
    rotate: impl Fn(usize) -> Result<Duration, String>,
) {
    let names = projects(world, "rotated", 4);
    outlet.drained(Duration::from_secs(20)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                write(world, &names, 20);
            }
        });
        for round in 0..scale(4, 100) {
            let rotated = rotate(round);
            if let Ok(took) = &rotated {
                trial.measured("until another connection delivers", *took);
            }
            trial.tried(rotated.map(drop));
        }
        over.store(true, Ordering::Relaxed);
    });
    let drained = outlet.drained(Duration::from_secs(20));
    let count = outlet.committed().len();
    trial.counted("events", count as u64);
    trial.tried_times(count, drained.as_ref().map(drop).map_err(Clone::clone));
    let received = drained.unwrap_or_else(|_| outlet.consumer.received());
    let repeated = received.iter().filter(|one| one.is_repeated).count();
    trial.counted("repeated", repeated as u64);
    trial.tried(match repeated {
        0 => Ok(()),
        some => Err(format!("{some} came twice, as after a connection that is lost")),
    });
    trial.measured("the longest pause of the consumer", longest_gap(outlet));
    crate::outbox::the_check_notices(trial, &outlet.committed(), received);
}

#[test]
fn row_59_a_password_that_is_changed_while_events_go_out_costs_none_and_no_order() {
    let mut trial = Trial::new(
        "row 59",
        "the broker's password is changed under flowing events, in the file or at the broker first: the next connection first, then the one before ends; each event once and in order",
    );
    let outlet = Outlet::new(vhost());
    let world = outlet.world(&[]);
    rotated_under_events(&mut trial, &outlet, &world, |round| rotate(&outlet, &world, round));

    let outlet = Outlet::new(vhost());
    let mut world = outlet.world(&[]);
    world.set_env("STRATAVORE_FAILPOINTS", "rotation=off");
    projects(&world, "kept", 1);
    outlet.drained(Duration::from_secs(20)).unwrap();
    trial.control("a daemon that does not look", rotate(&outlet, &world, 0).is_err());
    trial.end();
}

#[test]
fn row_59_certificates_that_are_changed_while_events_go_out_cost_none_and_no_order() {
    let mut trial = Trial::new(
        "row 59",
        "our certificate, or the CAs that speak for the broker, are changed under flowing events: the next connection first, then the one before ends; each event once and in order",
    );
    let of_settings = |outlet: &Outlet, certificates: &Certificates| {
        let settings = certificates.settings();
        outlet.world(&settings.each_ref().map(String::as_str))
    };
    let mut outlet = Outlet::new(vhost());
    let certificates = Certificates::of(&mut outlet);
    let world = of_settings(&outlet, &certificates);
    let rotate = |round| certificates.rotate(&outlet, &world, round);
    rotated_under_events(&mut trial, &outlet, &world, rotate);

    let mut outlet = Outlet::new(vhost());
    let certificates = Certificates::of(&mut outlet);
    let mut world = of_settings(&outlet, &certificates);
    world.set_env("STRATAVORE_FAILPOINTS", "rotation=off");
    projects(&world, "kept", 1);
    outlet.drained(Duration::from_secs(20)).unwrap();
    trial.control("a daemon that does not look", certificates.rotate(&outlet, &world, 0).is_err());
    trial.end();
}

#[test]
fn a_password_that_no_longer_lets_in_is_told_and_a_new_one_is_taken_without_a_restart() {
    let outlet = Outlet::new(vhost());
    let world = outlet.world(&[]);
    let names = projects(&world, "cut", 1);
    outlet.drained(Duration::from_secs(20)).unwrap();
    change(&outlet.vhost, "by-somebody-else");
    outlet.wire.reset_all();
    write(&world, &names, 5);
    until("it is told that it is not let in", || {
        let told = destination(&world).to_string();
        if told.contains("refused") || told.contains("ACCESS") { Ok(()) } else { Err(told) }
    });
    fs::write(&outlet.password, "by-somebody-else").unwrap();
    until_within(Duration::from_secs(30), "all is delivered", || {
        outlet.drained(Duration::from_millis(100)).map(drop)
    });
}

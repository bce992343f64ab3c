//! T-JOIN, and what hosts without a certificate can do to a daemon: on three real daemons that all
//! keep the CA, seen from outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use stratavore_core::NodeId;
use stratavore_core::join::JoinToken;
use stratavore_proto::client::Client;
use stratavore_proto::v1;
use stratavore_testkit::postgres::{TestPostgres, database, newest_bin};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, of_process, processes, rows, until};
use tokio::io::AsyncReadExt;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use super::certificate::Identity;
use super::tls::connect_as_stranger;

const RACERS: usize = 16;

/// Three daemons that share a database, and all sign.
struct Signers {
    database: TestPostgres,
    worlds: Vec<World>,
    /// The node and the address of each.
    doors: Vec<(NodeId, String)>,
    ca: String,
}

impl Signers {
    fn new(times: &str) -> Self {
        let database = database();
        let settings = database.settings(&database.socket_dir);
        let yaml = format!("{settings}\nnode:\n  listen: 127.0.0.1:0\n");
        let mut worlds: Vec<World> = (0..3).map(|_| World::with_config(&yaml)).collect();
        for world in &mut worlds {
            world.set_env("STRATAVORE_TEST_TIMES", times);
            world.run(["daemon", "start"]).ok();
        }
        worlds[0].run(["ca", "init"]).ok();
        for world in &worlds[1..] {
            give_ca(&worlds[0], world);
            world.run(["ca", "init"]).ok();
        }
        let doors = worlds.iter().map(door).collect();
        let ca = fs::read_to_string(worlds[0].path("state/ca/certificate.pem")).unwrap();
        Self { database, worlds, doors, ca }
    }

    fn token(&self, which: usize) -> String {
        self.worlds[which].run(["nodes", "token"]).ok().stdout().trim().to_owned()
    }

    /// Shows a token for `racer` to one of the daemons, again while that has no time for it.
    async fn show(
        &self,
        which: usize,
        racer: &Racer,
        token: &str,
    ) -> Result<v1::SignedCertificate, Status> {
        let began = std::time::Instant::now();
        loop {
            match self.show_once(which, racer, token).await {
                Err(busy) if busy.code() == Code::Unavailable && began.elapsed().as_secs() < 20 => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    }

    async fn show_once(
        &self,
        which: usize,
        racer: &Racer,
        token: &str,
    ) -> Result<v1::SignedCertificate, Status> {
        let accessor = token.parse::<JoinToken>().unwrap().accessor;
        let (public_key, proof) = racer.identity.prove(&accessor).unwrap();
        let request = v1::SignRequest {
            token: token.into(),
            node_id: racer.node.to_string(),
            public_key: public_key.into(),
            proof: proof.into(),
        };
        let (node, address) = self.doors[which].clone();
        let ca = self.ca.clone();
        let connector = service_fn(move |_: Uri| {
            let (ca, address) = (ca.clone(), address.clone());
            async move { connect_as_stranger(&ca, &address, node).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://stratavore.node");
        let channel = endpoint.connect_with_connector_lazy(connector);
        Client::over(channel).joining().sign(request).await.map(|reply| reply.into_inner())
    }
}

/// Brings the CA from one host to another, as docs/operations/team.md says.
fn give_ca(from: &World, to: &World) {
    let there = to.path("state/ca");
    fs::create_dir(&there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o700)).unwrap();
    for file in ["key.pem", "certificate.pem"] {
        fs::copy(from.path("state/ca").join(file), there.join(file)).unwrap();
    }
}

fn door(world: &World) -> (NodeId, String) {
    until("the node tells its address", || {
        let nodes = world.json(&["nodes"]);
        let here = rows(&nodes).iter().find(|node| node["here"] == true).cloned();
        let here = here.unwrap_or(Value::Null);
        let signs = here["keeps_ca"] == true;
        match (here["id"].as_str(), here["address"].as_str()) {
            (Some(id), Some(address)) if signs => Ok((id.parse().unwrap(), address.to_owned())),
            _ => Err(here),
        }
    })
}

/// A host that wants to be let in.
struct Racer {
    node: NodeId,
    identity: Identity,
    _directory: tempfile::TempDir,
}

impl Racer {
    /// One that the database has heard of, as of a host whose daemon has run.
    fn new(n: u8, signers: &Signers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::load(&directory.path().join("tls")).unwrap();
        let node = NodeId::from_entropy([n; 16]);
        signers.database.query(&format!(
            "INSERT INTO nodes (id, hostname, boot_id, seen_at) VALUES ('{node}', 'r{n}', 'b', now())"
        ));
        Self { node, identity, _directory: directory }
    }
}

fn secret(token: &str) -> &str {
    token.split('_').nth(2).unwrap()
}

/// Where a secret can be read: the processes' arguments and environments, these files, and a dump of
/// the database.
fn found(secrets: &[String], files: &[&Path], dump: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut look = |place: String, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        if secrets.iter().any(|secret| text.contains(secret.as_str())) {
            seen.push(place);
        }
    };
    for pid in processes() {
        for file in ["cmdline", "environ"] {
            look(format!("/proc/{pid}/{file}"), &of_process(pid, file));
        }
    }
    let mut left: Vec<_> = files.iter().map(|path| path.to_path_buf()).collect();
    while let Some(path) = left.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.filter_map(|entry| Some(entry.ok()?.path()))),
            // A file; one that is gone meanwhile, or a socket, has nothing to read.
            Err(_) => look(path.display().to_string(), &fs::read(&path).unwrap_or_default()),
        }
    }
    look("the database".into(), dump.as_bytes());
    seen
}

fn dump(database: &TestPostgres) -> String {
    let output = std::process::Command::new(newest_bin().unwrap().join("pg_dump"))
        .args(["--inserts", "--host"])
        .arg(&database.socket_dir)
        .args(["--port", &database.port.to_string(), "--username", &database.user])
        .arg(&database.database)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn held(held: bool, else_: impl Into<String>) -> Result<(), String> {
    if held { Ok(()) } else { Err(else_.into()) }
}

/// Whether a token that sixteen have shown, or one host sixteen times, has let in who is to be let in.
fn let_in(is_one: bool, given: usize, bound: usize) -> Result<(), String> {
    let (right, wanted) = match is_one {
        true => (given == RACERS && bound == 1, "the one host is let in"),
        // The first may have its certificate already when the second comes; it opens nothing.
        false => (given <= 1 && bound == 0, "both are out"),
    };
    held(right, format!("{wanted}: {given} certificates, {bound} bound"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_join_of_many_at_once_one_is_let_in_or_none() {
    let mut trial =
        Trial::new("T-JOIN", "sixteen show one token to three daemons at the same time");
    let mut signers = Signers::new("");
    let racers: Vec<Racer> = (1..=RACERS as u8).map(|n| Racer::new(n, &signers)).collect();
    let bound = || {
        let nodes = "SELECT count(*) FROM nodes WHERE key_digest IS NOT NULL AND boot_id = 'b'";
        signers.database.query(nodes).parse::<usize>().unwrap()
    };
    let mut secrets = Vec::new();
    let (mut wins, tokens) = (0, scale(6, 1000));
    for round in 0..tokens {
        let token = signers.token(round % 3);
        secrets.push(secret(&token).to_owned());
        // One host that asks again and again, since it hears nothing; or sixteen.
        let is_one = round % 2 == 0;
        let shown = (0..RACERS).map(|n| {
            let racer = if is_one { &racers[round % RACERS] } else { &racers[n] };
            signers.show((round + n) % 3, racer, &token)
        });
        let answers = futures_util::future::join_all(shown).await;
        let given = answers.iter().filter(|answer| answer.is_ok()).count();
        let right = let_in(is_one, given, bound());
        wins += usize::from(right.is_ok() && is_one);
        trial.tried(right);
        let refusals: Vec<&Status> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
        let told = refusals.iter().all(|status| status.message().contains("token is not good"));
        trial.tried(held(told, format!("{refusals:?}")));
        signers.database.query("UPDATE nodes SET key_digest = NULL WHERE boot_id = 'b'");
    }
    trial.counted("hosts let in", wins as u64);
    trial.counted("tokens", tokens as u64);

    let states: Vec<_> = signers.worlds.iter().map(|world| world.path("state")).collect();
    let states: Vec<&Path> = states.iter().map(|path| path.as_path()).collect();
    let places = found(&secrets, &states, &dump(&signers.database));
    trial.tried(held(places.is_empty(), format!("{places:?}")));

    // The controls: the search finds one in an argument, in a file, and in the database.
    let open = secrets[0].clone();
    let mut shell = std::process::Command::new("sleep");
    let mut shell = shell.arg("600").env("TOKEN", &open).spawn().unwrap();
    let leak = tempfile::tempdir().unwrap();
    fs::write(leak.path().join("log"), &open).unwrap();
    let seen = until("the process has its environment", || {
        let seen = found(&secrets, &[leak.path()], &open);
        if seen.len() == 3 { Ok(seen) } else { Err(seen) }
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
    let environ = format!("/proc/{}/environ", shell.id());
    trial.control("a token in an environment", seen.contains(&environ));
    trial.control("a token in a file", seen.iter().any(|place| place.ends_with("log")));
    trial.control("a token in the database", seen.contains(&"the database".to_owned()));
    // The control of the race: by a daemon that does not look whether a token was used, one lets in all.
    signers.worlds[0].set_env("STRATAVORE_FAILPOINTS", "token_once=off");
    signers.worlds[0].run(["daemon", "restart"]).ok();
    let before = signers.doors[0].clone();
    signers.doors[0] = until("it listens again", || match door(&signers.worlds[0]) {
        now if now == before => Err(now),
        now => Ok(now),
    });
    let token = signers.token(0);
    let shown = racers.iter().map(|racer| signers.show(0, racer, &token));
    let answers = futures_util::future::join_all(shown).await;
    let given = answers.iter().filter(|answer| answer.is_ok()).count();
    let (now_bound, judged) = (bound(), let_in(false, given, bound()));
    trial.counted("let in by one token without the check", now_bound as u64);
    trial.control("one token that lets in more than one", now_bound > 1 && judged.is_err());
    trial.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_without_a_certificate_take_no_more_than_their_seats() {
    let signers = Signers::new("stranger=10s");
    let (node, address) = signers.doors[0].clone();
    let knock = || connect_as_stranger(&signers.ca, &address, node);
    let seated = futures_util::future::join_all((0..super::listen::STRANGERS).map(|_| knock()));
    let mut seated: Vec<_> = seated.await.into_iter().map(Result::unwrap).collect();
    // Only whoever is greeted has a seat: a handshake is over here before it is there.
    let mut byte = [0];
    for one in &mut seated {
        one.read_exact(&mut byte).await.expect("it is greeted");
    }
    // Whoever comes now is sent away.
    let mut late = knock().await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), late.read(&mut byte));
    assert!(matches!(ended.await.expect("it is sent away"), Ok(0) | Err(_)));
    // And nodes are served meanwhile.
    signers.worlds[0].project("p");
    let there = signers.doors[0].0.to_string();
    let launch = ["launch", "--project", "p", "--assistant", "generic", "--name", "a", "--node"];
    let argv = [there.as_str(), "--", "sleep", "600"];
    signers.worlds[1].run(launch.iter().chain(&argv)).ok();
    // Nobody sits for ever, though it says nothing.
    for one in &mut seated {
        let mut told = Vec::new();
        let ended =
            tokio::time::timeout(std::time::Duration::from_secs(30), one.read_to_end(&mut told));
        ended.await.expect("its time is over").ok();
    }
    let racer = Racer::new(1, &signers);
    let token = signers.token(0);
    signers.show(0, &racer, &token).await.unwrap();
}

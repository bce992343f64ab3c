//! deploy/compose, as far as it can be tried without a container runtime: what its file says of each
//! service, and its configuration, secrets and order of start with real servers. `cargo xtask compose`
//! tries the containers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use stratavore_testkit::postgres::newest_bin;
use stratavore_testkit::rabbit::{Vhost, vhost};
use stratavore_testkit::tls::Certified;
use stratavore_testkit::world::{Ran, World, rows, until};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/compose").canonicalize().unwrap()
}

fn file(name: &str) -> String {
    fs::read_to_string(here().join(name)).unwrap()
}

/// What is wrong with a composition.
fn faults(yaml: &str) -> Vec<String> {
    let all: Value = serde_saphyr::from_str(yaml).expect("it is YAML");
    let mut faults = Vec::new();
    let services = all["services"].as_object().expect("it has services");
    for (name, service) in services {
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{name}: {what}"));
            }
        };
        let image = service["image"].as_str().unwrap_or_default();
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        let is_pinned = tag.contains('.') && tag.starts_with(|c: char| c.is_ascii_digit());
        must(is_pinned, "its image has no version");
        let user = service["user"].as_str().unwrap_or_default();
        let is_root = user.is_empty() || user == "root" || user.split(':').any(|id| id == "0");
        must(!is_root, "it runs as root");
        // What comes to an end by itself is waited for instead.
        let ends = services.values().any(|other| {
            other["depends_on"][name]["condition"] == "service_completed_successfully"
        });
        must(service["healthcheck"]["test"].is_array() || ends, "it has no health check");
        must(service["read_only"] == true, "its files can be written");
        must(service["cap_drop"] == serde_json::json!(["ALL"]), "it has capabilities");
        let options = service["security_opt"].to_string();
        must(options.contains("no-new-privileges:true"), "it may get privileges");
        must(service["ports"].is_null(), "it opens a port of the host");
        must(service["privileged"].is_null(), "it is privileged");
        let environment = service["environment"].as_object().cloned().unwrap_or_default();
        for key in environment.keys() {
            let lower = key.to_ascii_lowercase();
            let is_secret =
                ["password", "secret", "token", "key"].iter().any(|w| lower.contains(w));
            must(!is_secret || lower.ends_with("_file"), &format!("{key} may hold a secret"));
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            let file = &all["secrets"][secret.as_str().unwrap_or_default()]["file"];
            let is_file = file.as_str().is_some_and(|path| path.starts_with("./secrets/"));
            must(is_file, &format!("the secret {secret} is not in a file of secrets.sh"));
        }
        for config in service["configs"].as_array().into_iter().flatten() {
            let source = config["source"].as_str().unwrap_or_default();
            must(all["configs"][source]["file"].is_string(), &format!("no file for {source}"));
        }
    }
    faults
}

#[test]
fn compose_has_no_secret_no_root_and_a_check_of_health_for_each() {
    let yaml = file("compose.yaml");
    assert_eq!(faults(&yaml), Vec::<String>::new());
    // The control: each of them is noticed.
    for (from, to, noticed) in [
        ("pgvector/pgvector:0.8.1-pg17", "pgvector/pgvector:latest", "postgres: its image"),
        ("    user: \"${", "    labels: \"${", "postgres: it runs as root"),
        ("healthcheck:", "no-check:", "postgres: it has no health check"),
        ("read_only: true", "read_only: false", "its files can be written"),
        ("cap_drop: [ALL]", "cap_add: [ALL]", "it has capabilities"),
        ("no-new-privileges:true", "seccomp:unconfined", "it may get privileges"),
        ("POSTGRES_PASSWORD_FILE:", "POSTGRES_PASSWORD:", "POSTGRES_PASSWORD may hold a secret"),
        (
            "schema: { condition: service_completed",
            "postgres: { condition: service_completed",
            "schema: it has no health check",
        ),
        ("./secrets/postgres-password", "./password", "postgres-password\" is not in a file"),
        ("shm_size: 256mb", "ports: [\"5432:5432\"]", "opens a port"),
    ] {
        let found = faults(&yaml.replace(from, to));
        assert!(found.iter().any(|fault| fault.contains(noticed)), "{noticed}: {found:?}");
    }
    // Each daemon has a state directory and a name of its own.
    let all: Value = serde_saphyr::from_str(&yaml).unwrap();
    for name in ["stratavore-1", "stratavore-2", "stratavore-3"] {
        let daemon = &all["services"][name];
        assert_eq!(daemon["hostname"], name);
        assert_eq!(daemon["volumes"][0], format!("{name}:/var/lib/stratavore"));
        assert_eq!(daemon["init"], true, "what runners leave is reaped");
        // Where assistants unpack libraries. An engine lets nothing there be run unless it is told to.
        assert_eq!(daemon["tmpfs"], serde_json::json!(["/tmp:exec"]));
        // The owner's password is not with those that run assistants.
        let secrets = daemon["secrets"].to_string();
        assert!(!secrets.contains("postgres-password"), "{secrets}");
    }
    let dockerfile = file("Dockerfile");
    let froms = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
    assert!(froms.clone().count() == 2 && froms.clone().all(|from| from.contains('.')));
    assert!(dockerfile.contains("\nUSER 10001:10001\n") && dockerfile.contains("--locked"));
    assert!(dockerfile.contains("LANG=C.UTF-8"), "or doctor warns of what the user cannot mend");
    // Where every builder looks for it, also one that knows no Dockerfile.dockerignore.
    let kept_out = fs::read_to_string(here().join("../../.dockerignore")).unwrap();
    for secret in ["deploy/compose/secrets", "deploy/compose/.env"] {
        assert!(
            kept_out.lines().any(|line| line == secret),
            "{secret} gets into the image's build"
        );
    }
}

/// Root's umask may have been tight when it cloned, and the containers are of another user.
#[test]
fn what_is_no_secret_is_read_by_the_containers_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for part in ["compose", "postgres"] {
        fs::create_dir(directory.path().join(part)).unwrap();
        for entry in fs::read_dir(here().join("..").join(part)).unwrap() {
            let from = entry.unwrap().path();
            let to = directory.path().join(part).join(from.file_name().unwrap());
            if from.is_file() {
                fs::copy(&from, &to).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(0o700)).unwrap();
            }
        }
    }
    let there = directory.path().join("compose");
    let made = Ran::of(Command::new(there.join("secrets.sh"))).ok().everything();
    assert!(made.contains("for user 10001"), "{made}");
    let all: Value = serde_saphyr::from_str(&file("compose.yaml")).unwrap();
    let mode = |path: &str| there.join(path).metadata().unwrap().permissions().mode() & 0o044;
    for (name, config) in all["configs"].as_object().unwrap() {
        assert_eq!(mode(config["file"].as_str().unwrap()), 0o044, "{name}");
    }
    for (name, secret) in all["secrets"].as_object().unwrap() {
        assert_eq!(mode(secret["file"].as_str().unwrap()), 0, "{name}");
    }
}

/// A PostgreSQL server as compose.yaml starts it. Ends when it is dropped.
struct Server {
    child: Child,
    port: u16,
    password: PathBuf,
}

impl Server {
    fn start(directory: &Path, secrets: &Path) -> Self {
        let data = directory.join("postgres");
        fs::create_dir(&data).unwrap();
        for (from, to) in [
            ("postgres-password", "password"),
            ("postgres.pem", "certificate"),
            ("postgres-key.pem", "key"),
        ] {
            fs::copy(secrets.join(from), data.join(to)).unwrap();
        }
        let bin = newest_bin().unwrap();
        // PostgreSQL refuses to run as root.
        let mut as_user = vec!["--pdeathsig", "KILL"];
        if rustix::process::geteuid().is_root() {
            as_user.extend(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
            let given = Command::new("chown").args(["-R", "postgres:"]).arg(&data).status();
            assert!(given.unwrap().success());
        }
        let run = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(&as_user).arg(bin.join(program)).current_dir(&data);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = run("initdb")
            .args(["--pgdata", "data", "--username=stratavore", "--pwfile=password"])
            .args(["--auth-host=scram-sha-256", "--auth-local=trust", "--no-sync"])
            .status();
        assert!(made.unwrap().success());
        let port = free_port();
        let child = run("postgres")
            .args(["-D", "data", "--ssl=on", "--listen_addresses=127.0.0.1", "--fsync=off"])
            .arg(format!("--port={port}"))
            .arg(format!("--ssl_cert_file={}", data.join("certificate").display()))
            .arg(format!("--ssl_key_file={}", data.join("key").display()))
            .arg(format!("--unix_socket_directories={}", data.display()))
            .spawn()
            .unwrap();
        let server = Self { child, port, password: secrets.join("postgres-password") };
        until("the server is well, as compose.yaml asks", || {
            let mut asked = Command::new(bin.join("pg_isready"));
            asked.args(["--host=127.0.0.1", "--username=stratavore", "--quiet"]);
            let ready = asked.arg(format!("--port={port}")).status().unwrap().success();
            if ready { Ok(()) } else { Err("not yet") }
        });
        server.query("postgres", "CREATE DATABASE stratavore");
        server
    }

    fn query(&self, database: &str, sql: &str) -> String {
        self.ask(database, sql).ok().stdout().trim().to_owned()
    }

    fn ask(&self, database: &str, sql: &str) -> Ran {
        let password = fs::read_to_string(&self.password).unwrap();
        let mut psql = Command::new(newest_bin().unwrap().join("psql"));
        psql.args(["-h", "127.0.0.1", "-U", "stratavore", "-tA", "-d", database, "-c", sql])
            .args(["-p", &self.port.to_string()])
            .env("PGPASSWORD", password.trim());
        Ran::of(psql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The user and virtual host that secrets.sh has made a file for, in the broker of the tests.
struct Defined<'a>(&'a Vhost);

impl<'a> Defined<'a> {
    fn new(vhost: &'a Vhost, definitions: &Path) -> Self {
        let read = format!(
            "{{ok, Read}} = file:read_file(\"{}\"), rabbit_definitions:import_raw(Read).",
            definitions.display()
        );
        assert_eq!(vhost.eval(&read), "ok");
        Self(vhost)
    }
}

impl Drop for Defined<'_> {
    fn drop(&mut self) {
        self.0.eval(
            "rabbit_vhost:delete(<<\"stratavore\">>, <<\"tests\">>), \
             rabbit_auth_backend_internal:delete_user(<<\"stratavore\">>, <<\"tests\">>).",
        );
    }
}

/// Makes the schema as its owner and gives the daemons' role its rights, as the two services do.
fn make_schema(secrets: &Path, postgres: u16) {
    let owner = World::with_config(&placed("owner.yaml", secrets, &database(postgres)));
    let mut migrate = owner.command("stratavored");
    migrate.arg("--migrate");
    let told = Ran::of(migrate).ok().everything();
    assert!(!told.contains("WARN"), "a new home is no reason to warn: {told}");
    let place = |name: &str| fs::copy(secrets.join(format!("{name}.pem")), secrets.join(name));
    place("ca").unwrap();
    for _ in 0..2 {
        let mut rights = Command::new(here().join("rights.sh"));
        let bin = newest_bin().unwrap();
        rights.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        rights.env("SECRETS", secrets).env("RIGHTS", here().join("../postgres/rights.sql"));
        rights.env("PGHOST", "localhost").env("PGPORT", postgres.to_string());
        let told = Ran::of(rights).ok().everything();
        let password = fs::read_to_string(secrets.join("postgres-app-password")).unwrap();
        assert!(told.contains("has its rights") && !told.contains(password.trim()), "{told}");
    }
    fs::remove_file(secrets.join("ca")).unwrap();
}

/// Where the database is, in place of where it is among containers. To a host of another name it would have
/// to prove itself without being told to.
fn database(postgres: u16) -> [(&'static str, String); 1] {
    let there = format!("host: localhost\n    port: {postgres}\n    sslmode: verify-full\n");
    [("host: postgres\n", there)]
}

/// The configuration of the daemons, with other places for what is in containers.
fn settings(secrets: &Path, postgres: u16, rabbitmq: u16) -> String {
    let [database] = database(postgres);
    let places = [
        database,
        ("host: rabbitmq\n    port: 5671\n", format!("host: localhost\n    port: {rabbitmq}\n")),
        // In a debug build a password takes long to prove.
        (
            "url: postgres\n",
            "url: postgres\n  pool: {max_connections: 2, min_connections: 1, \
                              acquire_timeout: 20s}\n"
                .to_owned(),
        ),
        ("listen: 0.0.0.0:7433\n", "listen: 127.0.0.1:0\n".to_owned()),
    ];
    placed("stratavore.yaml", secrets, &places)
}

/// A configuration with other places for these and for secrets.
fn placed(name: &str, secrets: &Path, places: &[(&str, String)]) -> String {
    let all: Value = serde_saphyr::from_str(&file("compose.yaml")).unwrap();
    let mut yaml = file(name);
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (name, secret) in all["secrets"].as_object().unwrap() {
        let path =
            secret["file"].as_str().unwrap().replace("./secrets", &secrets.display().to_string());
        files.insert(format!("/run/secrets/{name}\n"), format!("{path}\n"));
    }
    for (from, to) in &files {
        yaml = yaml.replace(from, to);
    }
    for (from, to) in places {
        assert!(yaml.contains(from), "{from}");
        yaml = yaml.replace(from, to);
    }
    assert!(!yaml.contains("/run/secrets"), "{yaml}");
    yaml
}

#[test]
fn compose_s_configuration_brings_three_daemons_up_together() {
    let directory = tempfile::tempdir().unwrap();
    // The server's user passes through.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let secrets = directory.path().join("secrets");
    let make = || {
        let mut made = Command::new(here().join("secrets.sh"));
        made.arg(&secrets).stdin(Stdio::null());
        Ran::of(made).ok();
        let files = fs::read_dir(&secrets).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let first = make();
    assert_eq!(make(), first, "made again, they are the same");
    assert_eq!(first.len(), 10, "{:?}", first.keys());
    for path in first.keys() {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        // In a container they are its user's; here that is us.
        let (me, group) =
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        std::os::unix::fs::chown(path, Some(me), Some(group)).unwrap();
    }
    let read = |name: &str| fs::read_to_string(secrets.join(name)).unwrap();

    let server = Server::start(directory.path(), &secrets);
    make_schema(&secrets, server.port);
    let broker = vhost();
    let _defined = Defined::new(&broker, &secrets.join("rabbitmq-definitions.json"));
    let shown = Certified { certificate: read("rabbitmq.pem"), key: read("rabbitmq-key.pem") };
    let listener = broker.listen(&shown, None);
    let yaml = settings(&secrets, server.port, listener.address().port());
    let worlds: Vec<World> = (0..3).map(|_| World::with_config(&yaml)).collect();
    for world in &worlds {
        // The check of health, before and after.
        assert_ne!(world.run(["daemon", "status"]).code(), 0);
        world.run(["daemon", "start"]).ok();
        world.run(["daemon", "status"]).ok();
    }

    // join.sh, where a container is a home.
    let on = directory.path().join("on");
    let homes: String = (1..).zip(&worlds).fold(String::new(), |text, (n, world)| {
        format!("{text}stratavore-{n}) STRATAVORE_HOME={} ;;\n", world.path("").display())
    });
    let script =
        format!("#!/bin/sh\ncase $1 in\n{homes}esac\nshift\nexport STRATAVORE_HOME\nexec \"$@\"\n");
    fs::write(&on, script).unwrap();
    fs::set_permissions(&on, fs::Permissions::from_mode(0o755)).unwrap();
    let programs = World::program("stratavore").parent().unwrap().to_path_buf();
    let mut join = Command::new(here().join("join.sh"));
    let path = format!("{}:/usr/bin:/bin", programs.display());
    join.env_clear().env("PATH", path).env("EXEC_ON", &on).env("HOME", directory.path());
    let told = Ran::of(join).ok().everything();
    assert!(!told.contains("svj_"), "no token is shown: {told}");

    let nodes = worlds[2].json(&["nodes"]);
    assert_eq!(rows(&nodes).iter().filter(|node| node["ready"] == true).count(), 3, "{nodes}");
    worlds[0].project("p");
    let there = rows(&nodes).iter().find(|node| node["here"] == true).unwrap()["id"].clone();
    let there = there.as_str().unwrap();
    worlds[0].launch_with("p", "far", &["--node", there], &["sleep", "600"]);
    assert_eq!(worlds[2].agents().len(), 1);

    // Events are in the queue, and every connection is encrypted.
    let depth = "case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"stratavore\">>, queue, \
                 <<\"stratavore.work\">>)) of {ok, Q} -> [{messages, N}] = \
                 rabbit_amqqueue:info(Q, [messages]), N; _ -> 0 end.";
    until("events are in the queue", || {
        let depth: u64 = broker.eval(depth).parse().unwrap();
        if depth > 3 { Ok(()) } else { Err((depth, worlds[0].json(&["outbox"]))) }
    });
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                 WHERE a.datname = 'stratavore' AND a.application_name <> 'psql' AND NOT s.ssl";
    assert_eq!(server.query("stratavore", plain), "0");
    assert_ne!(server.query("stratavore", &plain.replace("NOT s.ssl", "s.ssl")), "0");
    // The daemons work with a role that can do nothing to the record.
    let users = "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity \
                 WHERE datname = 'stratavore' AND application_name <> 'psql'";
    assert_eq!(server.query("stratavore", users), "stratavore_app");
    for change in [
        "DELETE FROM events",
        "UPDATE events SET kind = 'x'",
        "TRUNCATE events",
        "DROP TABLE events",
    ] {
        let refused = server.ask("stratavore", &format!("SET ROLE stratavore_app; {change}"));
        assert!(
            refused.stderr().contains("denied") || refused.stderr().contains("owner"),
            "{change}: {}",
            refused.everything()
        );
    }
    // Who is not believed is not used.
    let strange = directory.path().join("strange");
    let mut made = Command::new(here().join("secrets.sh"));
    Ran::of({
        made.arg(&strange);
        made
    })
    .ok();
    fs::copy(strange.join("ca.pem"), secrets.join("ca.pem")).unwrap();
    let late = World::with_config(&yaml);
    let refused = late.run(["daemon", "start"]);
    assert_ne!(refused.code(), 0);
    let log = fs::read_to_string(late.path("state/daemon.log")).unwrap_or_default();
    let said = format!("{}{log}", refused.everything());
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}

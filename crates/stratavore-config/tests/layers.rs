//! The configuration as a person meets it: files on disk, variables, flags, and what is said when
//! something is wrong with them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratavore_config::{
    Config, ConfigError, Environment, Loaded, LogFormat, Paths, Place, Postgres, Resize, Source,
    Sources, SslMode, StoreUrl, Switch,
};

/// A directory with a system's file, a user's file, and whatever else a test writes.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the file is written");
        set_mode(&path, 0o644);
        path
    }

    fn load(
        &self,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Loaded, ConfigError> {
        self.load_with(None, variables, flags)
    }

    fn load_with(
        &self,
        file: Option<PathBuf>,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Loaded, ConfigError> {
        let environment: Environment =
            variables.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let files = vec![self.path("system.yaml"), self.path("user.yaml")];
        let flags = flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Config::load(&Sources { files, file, environment: &environment, flags })
    }

    /// What is said of a user's file with this text, without the directory.
    fn complaint(&self, text: &str) -> String {
        self.write("user.yaml", text);
        self.said(self.load(&[], &[]))
    }

    fn said(&self, result: Result<Loaded, ConfigError>) -> String {
        let said = result.expect_err("this configuration is wrong").to_string();
        assert!(!said.contains('\n'), "more than one line: {said}");
        said.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode is set");
}

#[test]
fn with_nothing_given_everything_has_its_default() {
    let loaded = Files::new().load(&[("PATH", "/bin"), ("HOME", "/h")], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    let pool = &loaded.config.store.pool;
    assert_eq!((pool.max_connections, pool.min_connections), (25, 5));
    assert_eq!(
        (pool.max_lifetime, pool.idle_timeout),
        (Duration::from_secs(3600), Duration::from_secs(1800))
    );
    assert!(loaded.rows().iter().all(|row| row.source == "default"));
    assert!(loaded.files.is_empty());
}

#[test]
fn a_stronger_layer_replaces_single_keys_and_is_named_as_their_source() {
    let files = Files::new();
    files.write(
        "system.yaml",
        "daemon:\n  log: json\n  log_level: warn\nrunner:\n  env_pass: [A, B]\n  grace: 1s\n",
    );
    files.write("user.yaml", "daemon:\n  log_level: debug\nrunner:\n  env_pass: [C]\n  grace: 2s\nattach: {resize: latest}\n");
    let variables =
        [("STRATAVORE_RUNNER__GRACE", "3s"), ("STRATAVORE_STORE__POOL__MAX_CONNECTIONS", "7")];
    let loaded = files
        .load(&variables, &[("store.pool.max_connections", "9"), ("daemon.shutdown_grace", "0")])
        .unwrap();

    let config = &loaded.config;
    assert_eq!(config.daemon.log, LogFormat::Json);
    assert_eq!(config.daemon.log_level.as_str(), "debug");
    assert_eq!(config.runner.env_pass, ["C"], "a list replaces a list");
    assert_eq!(config.runner.grace, Duration::from_secs(3));
    assert_eq!(config.store.pool.max_connections, 9);
    assert_eq!(config.daemon.shutdown_grace, Duration::ZERO);
    assert_eq!(config.attach.resize, Resize::Latest);

    let at =
        |name, line, column| Source::File { path: files.path(name), place: Place { line, column } };
    assert_eq!(loaded.origin("daemon.log"), at("system.yaml", 2, 8));
    assert_eq!(loaded.origin("daemon.log_level"), at("user.yaml", 2, 14));
    assert_eq!(
        loaded.origin("runner.grace"),
        Source::Environment { variable: "STRATAVORE_RUNNER__GRACE".into() }
    );
    assert_eq!(loaded.origin("store.pool.max_connections"), Source::Flag);
    assert_eq!(loaded.origin("agent.heartbeat"), Source::Default);
    assert_eq!(loaded.files, [files.path("system.yaml"), files.path("user.yaml")]);

    let row = loaded.rows().into_iter().find(|row| row.key == "runner.grace").unwrap();
    assert_eq!(
        (row.value.as_deref(), row.source.as_str()),
        (Some("3s"), "environment STRATAVORE_RUNNER__GRACE")
    );
}

#[test]
fn a_named_file_replaces_the_others_and_must_exist() {
    let files = Files::new();
    files.write("user.yaml", "daemon: {log: json}\n");
    let named = files.write("named.yaml", "daemon: {log_level: error}\n");
    let loaded = files.load_with(Some(named.clone()), &[], &[]).unwrap();
    assert_eq!((loaded.config.daemon.log, loaded.files), (LogFormat::Human, vec![named]));

    let said = files.said(files.load_with(Some(files.path("none.yaml")), &[], &[]));
    assert_eq!(said, "cannot read the configuration file none.yaml");

    let variables = Environment::from([("STRATAVORE_CONFIG".into(), "/a/b.yaml".into())]);
    let sources = Sources::new(&Paths::of_home(Path::new("/h")), &variables);
    assert_eq!(
        (sources.file, sources.files),
        (Some("/a/b.yaml".into()), vec!["/h/stratavore.yaml".into()])
    );
}

#[test]
fn variables_that_are_not_configuration_are_left_alone() {
    let variables = [
        ("STRATAVORE_HOME", "/h"),
        ("STRATAVORE_RUNNER_ID", "run_x"),
        ("STRATAVORE_TEST_POSTGRES", "x"),
        ("STRATAVORE_LOG", "debug"),
        ("STRATAVORE_FAILPOINTS", "x"),
        ("STRATAVORE_CONFIG", ""),
    ];
    assert_eq!(Files::new().load(&variables, &[]).unwrap().config, Config::default());
}

#[test]
fn postgres_is_described_field_by_field() {
    let files = Files::new();
    files.write(
        "user.yaml",
        "store:\n  url: postgres\n  postgres:\n    host: db.example.org\n    port: 6432\n    database: s\n    user: \"a@b?c\"\n    \
         password_file: /run/secrets/db\n    root_cert: /etc/ca.pem\n",
    );
    let store = files.load(&[], &[]).unwrap().config.store;
    assert_eq!(store.url, StoreUrl::Postgres);
    assert_eq!((store.postgres.port, store.postgres.user.as_str()), (6432, "a@b?c"));
    assert_eq!(store.postgres.ssl_mode(), SslMode::VerifyFull);
    assert_eq!(store.database(&Paths::of_home(Path::new("/h"))), None);

    let mode = |host: &str| Postgres { host: host.into(), ..Postgres::default() }.ssl_mode();
    assert_eq!(mode("/var/run/postgresql"), SslMode::Disable);
    assert_eq!(mode("localhost"), SslMode::Prefer);
    assert_eq!(mode("localhost.example.org"), SslMode::VerifyFull);
    let asked = Postgres { sslmode: Some(SslMode::Require), ..Postgres::default() };
    assert_eq!(asked.ssl_mode(), SslMode::Require);
}

#[test]
fn sqlite_is_a_file_of_ours_or_a_named_one() {
    let files = Files::new();
    let paths = Paths::of_home(Path::new("/h"));
    let database = |url| {
        files.load(&[], &[("store.url", url)]).unwrap().config.store.database(&paths).unwrap()
    };
    assert_eq!(database("sqlite"), Path::new("/h/state/stratavore.db"));
    assert_eq!(database("sqlite:/a/b.db"), Path::new("/a/b.db"));
}

#[test]
fn assistants_are_configured_by_name() {
    let files = Files::new();
    files.write(
        "system.yaml",
        "assistants:\n  claude:\n    program: /opt/claude\n  my.tool-2: {args: [--fast]}\n",
    );
    files.write(
        "user.yaml",
        "assistants:\n  claude:\n    args: [-v, \"10\"]\n    env_pass: [ANTHROPIC_BASE_URL]\n",
    );
    let variables = [("STRATAVORE_ASSISTANTS__CODEX__ARGS", "--search,-v")];
    let loaded = files.load(&variables, &[]).unwrap();
    let claude = &loaded.config.assistants["claude"];
    assert_eq!(claude.program.as_deref(), Some(Path::new("/opt/claude")));
    assert_eq!(
        (claude.args.join(" ").as_str(), claude.env_pass.join(" ").as_str()),
        ("-v 10", "ANTHROPIC_BASE_URL")
    );
    assert_eq!(loaded.config.assistants["my.tool-2"].args, ["--fast"]);
    assert_eq!(loaded.config.assistants["codex"].args, ["--search", "-v"]);
    let row = loaded.rows().into_iter().find(|row| row.key == "assistants.claude.program").unwrap();
    assert_eq!(row.value.as_deref(), Some("/opt/claude"));
}

#[test]
fn an_empty_file_and_an_empty_section_are_no_mistake() {
    let files = Files::new();
    files.write("system.yaml", "");
    files.write("user.yaml", "# nothing yet\nstore:\n  # url: postgres\ndaemon:\n");
    assert_eq!(files.load(&[], &[]).unwrap().config, Config::default());
}

#[test]
fn every_mistake_is_one_line_with_place_value_and_next_step() {
    let files = Files::new();
    for (text, said) in [
        (
            "daemon:\n  lgo: json\n",
            "user.yaml:2:3: there is no key `daemon.lgo`; did you mean `daemon.log`?",
        ),
        ("demon:\n  log: json\n", "user.yaml:1:1: there is no key `demon`; did you mean `daemon`?"),
        (
            "agent:\n  heartbeat: 10\n",
            "user.yaml:2:14: `agent.heartbeat` is `10`, and must be a duration from 100ms to 5m, such as",
        ),
        (
            "agent:\n  heartbeat: 2h\n",
            "`agent.heartbeat` is `2h`, and must be a duration from 100ms to 5m",
        ),
        (
            "agent: {output_max_bytes: 1MB}\n",
            "`agent.output_max_bytes` is `1MB`, and must be a size from 128KiB to 64GiB",
        ),
        (
            "store: {pool: {max_connections: 0}}\n",
            "is `0`, and must be a whole number from 1 to 1000",
        ),
        ("store: {pool: {max_connections: many}}\n", "is `many`, and must be a whole number"),
        ("store: {url: mysql}\n", "must be `sqlite`, `sqlite:/a/file` or `postgres`"),
        (
            "store: {url: 'postgres://u:hunter2@h/d'}\n",
            "`postgres://u:(hidden)@h/d`, and must be `postgres`, with the server under `store.postgres`",
        ),
        ("store: {url: 'sqlite:relative'}\n", "an absolute path"),
        ("store: sqlite\n", "user.yaml:1:8: `store` is a section: write its keys below it"),
        (
            "daemon: {log: {format: json}}\n",
            "`daemon.log` is `a section`, and must be a single value or a list",
        ),
        (
            "daemon:\n  log:\n",
            "user.yaml:2:3: `daemon.log` has no value: give it one, or remove the line",
        ),
        ("daemon: {log: xml}\n", "must be one of `human`, `json`"),
        ("agent: {binary: bin/agent}\n", "must be an absolute path"),
        (
            "runner: {env_pass: HOME}\n",
            "must be a list of names of environment variables, such as `[A, B]`",
        ),
        ("runner: {env_pass: [A=B]}\n", "`A=B` is none"),
        ("runner: {env_pass: [[A]]}\n", "a list of single values"),
        ("attach: {detach_key: q}\n", "the first key must be a control key"),
        ("assistants: {claude: {programm: x}}\n", "did you mean `assistants.claude.program`?"),
        ("assistants: {claude: {program: ./x}}\n", "a program's name, or its absolute path"),
        ("assistants: {'cl aude': {program: x}}\n", "there is no key `assistants.cl aude`"),
        ("daemon:\n  log: [json\n", "this is not YAML"),
        ("daemon:\n  log: json\n  log: human\n", "user.yaml:3:3: this is not YAML"),
        ("- a\n", "user.yaml:1:1: this is not YAML: the whole must be sections"),
        (
            "store: {postgres: {password: hunter2}}\n",
            "`store.postgres.password` would keep a secret in the configuration",
        ),
        ("anything:\n  api_key: abc\n", "user.yaml:1:1: there is no key `anything`"),
        ("daemon: {api_token: abc}\n", "`daemon.api_token` would keep a secret"),
        (
            "bus: {url: 'amqp://me:hunter2@mq'}\n",
            "`rabbitmq`, with the broker under `bus.rabbitmq`",
        ),
        ("bus: {rabbitmq: {password: hunter2}}\n", "`bus.rabbitmq.password` would keep a secret"),
        (
            "bus: {url: rabbitmq}\n",
            "needs the file that is named by `bus.rabbitmq.password_file`, which is not set",
        ),
        (
            "bus: {rabbitmq: {client_cert: /a.pem}}\n",
            "goes together with `bus.rabbitmq.client_key_file`, which is not set",
        ),
        ("bus: {rabbitmq: {exchange: amq.topic}}\n", "does not begin with `amq.`"),
        (
            "vault: {url: s3://blobs/team}\n",
            "needs the file that is named by `vault.s3.credentials_file`, which is not set",
        ),
        ("vault: {url: s3://blobs/../team}\n", "`s3://BUCKET/PREFIX`"),
        ("vault: {url: s3://x}\n", "`s3://BUCKET/PREFIX`"),
        (
            "vault: {s3: {endpoint: http://blobs.example:9000}}\n",
            "an https URL, or an http one of this host",
        ),
        (
            "vault: {s3: {endpoint: http://127.0.0.1.example}}\n",
            "an https URL, or an http one of this host",
        ),
        ("vault: {s3: {secret_key: hunter2}}\n", "`vault.s3.secret_key` would keep a secret"),
    ] {
        let complaint = files.complaint(text);
        assert!(complaint.contains(said), "{text:?}\n  said:   {complaint}\n  wanted: {said}");
        assert!(!complaint.contains("hunter2"), "a secret is repeated: {complaint}");
    }
}

#[test]
fn a_switch_is_written_in_any_way_that_yaml_has() {
    for (text, tls) in
        [("on", Switch::On), ("'on'", Switch::On), ("true", Switch::On), ("off", Switch::Off)]
    {
        let files = Files::new();
        files.write("user.yaml", &format!("bus: {{rabbitmq: {{tls: {text}}}}}\n"));
        let loaded = files.load(&[], &[]).unwrap();
        assert_eq!(loaded.config.bus.rabbitmq.tls, tls, "{text}");
    }
}

#[test]
fn values_that_cannot_both_hold_are_both_named() {
    let files = Files::new();
    let said = files.complaint("store: {pool: {max_connections: 3}}\n");
    assert_eq!(
        said,
        "`store.pool.min_connections` is 5 (default), and must not be more than `store.pool.max_connections`, which is 3 \
         (user.yaml:1:33)"
    );
    assert!(
        files
            .complaint("agent: {output_max_bytes: 1MiB}\n")
            .contains("must not be more than half of")
    );
    assert!(
        files
            .complaint("agent: {heartbeat: 1m}\n")
            .contains("must be at least twice `agent.heartbeat`")
    );
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let files = Files::new();
    let said = files.said(files.load(&[("STRATAVORE_DAEMON__LGO", "json")], &[]));
    assert_eq!(
        said,
        "the environment has a variable STRATAVORE_DAEMON__LGO that is no configuration key; did you mean \
         `STRATAVORE_DAEMON__LOG`?; unset it"
    );
    let said = files.said(files.load(&[("STRATAVORE_DAEMON__LOG", "xml")], &[]));
    assert!(
        said.starts_with("environment STRATAVORE_DAEMON__LOG: `daemon.log` is `xml`"),
        "{said}"
    );
    let said = files.said(files.load(&[], &[("daemon.log", "xml")]));
    assert!(said.starts_with("flag: `daemon.log` is `xml`, and must be one of"), "{said}");
    let said = files.said(files.load(&[], &[("daemon.lgo", "json")]));
    assert_eq!(said, "flag: there is no key `daemon.lgo`; did you mean `daemon.log`?");
}

#[test]
fn a_weaker_layer_must_be_right_even_where_it_does_not_count() {
    let files = Files::new();
    files.write("user.yaml", "daemon: {log: xml}\n");
    assert!(files.load(&[], &[("daemon.log", "json")]).is_err());
}

#[test]
fn a_file_that_others_could_have_written_is_refused() {
    let files = Files::new();
    let path = files.write("user.yaml", "daemon: {log: json}\n");
    files.load(&[], &[]).expect("the same file with the right mode is read");

    set_mode(&path, 0o666);
    let said = files.said(files.load(&[], &[]));
    assert_eq!(
        said,
        "everybody can write to the configuration file user.yaml (mode 666): run `chmod o-w user.yaml`"
    );

    set_mode(&path, 0o644);
    // Only root can give a file away; the check is the same for everyone.
    if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
        let said = files.said(files.load(&[], &[]));
        assert!(
            said.contains("belongs to user 12345, neither to you nor to root: run `chown"),
            "{said}"
        );
    }
}

#[test]
fn what_is_no_text_file_is_refused() {
    let files = Files::new();
    std::fs::create_dir(files.path("user.yaml")).unwrap();
    assert_eq!(
        files.said(files.load(&[], &[])),
        "user.yaml is not a configuration file: it is not a regular file"
    );
    std::fs::remove_dir(files.path("user.yaml")).unwrap();

    let pipe = files.path("user.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(
        files.said(files.load(&[], &[])).ends_with("it is not a regular file"),
        "and it does not wait for a writer"
    );
    std::fs::remove_file(&pipe).unwrap();

    std::fs::write(files.path("user.yaml"), b"daemon: \xff\n").unwrap();
    assert!(files.said(files.load(&[], &[])).ends_with("it is not UTF-8 text"));
    std::fs::write(files.path("user.yaml"), "#".repeat((1 << 20) + 1)).unwrap();
    assert!(files.said(files.load(&[], &[])).ends_with("it is larger than 1MiB"));
}

#[test]
fn a_secret_in_a_file_that_others_can_read_is_refused_and_never_shown() {
    let files = Files::new();
    let path = files.write("user.yaml", "assistants:\n  claude:\n    args: [--api-key, hunter2]\n");
    let said = files.said(files.load(&[], &[]));
    assert!(
        said.starts_with("user.yaml:3:11: `assistants.claude.args` holds what looks like a secret"),
        "{said}"
    );
    assert!(said.contains("run `chmod 600 user.yaml`") && !said.contains("hunter2"), "{said}");

    set_mode(&path, 0o600);
    let rows = files.load(&[], &[]).unwrap().rows();
    let row = rows.iter().find(|row| row.key == "assistants.claude.args").unwrap();
    assert_eq!(row.value.as_deref(), Some("[--api-key, (hidden)]"));
}

#[test]
fn a_model_has_the_prices_that_are_given() {
    let files = Files::new();
    files.write(
        "user.yaml",
        "prices:\n  gpt-5.9:\n    input: 1.25\n    output: 10\n    cache_read: 0.125\n  \"corp/claude-*\": {input: 0, output: much}\n",
    );
    assert_eq!(
        files.said(files.load(&[], &[])),
        "user.yaml:6:39: `prices.corp/claude-*.output` is `much`, and must be US dollars for a million tokens, from 0 to 1000000, such as `1.25`"
    );
    files.write(
        "user.yaml",
        "prices:\n  gpt-5.9:\n    input: 1.25\n    output: 10\n    cache_read: 0.125\n",
    );
    let loaded = files.load(&[], &[("prices.gpt-5.9.output", "12")]).unwrap();
    let price = &loaded.config.prices["gpt-5.9"];
    assert_eq!(
        (price.input, price.output, price.cache_write),
        (Some(1_250_000), Some(12_000_000), None)
    );
    let rows = loaded.rows();
    let row = rows.iter().find(|row| row.key == "prices.gpt-5.9.cache_read").unwrap();
    assert_eq!(row.value.as_deref(), Some("0.125"));

    assert_eq!(
        files.complaint("prices:\n  mine:\n    input: 1\n"),
        "user.yaml:3:12: `prices.mine.output` is `not set`, and must be given wherever the model has a price: `input` and `output` both"
    );
    let said = files.complaint("prices:\n  mine:\n    inptu: 1\n");
    assert!(said.contains("prices.mine.input"), "{said}");
    let said = files.complaint("prices:\n  \"a*b\":\n    input: 1\n");
    assert!(said.contains("a*b"), "{said}");
}

/// The document is the reference of the keys: every key is in it with its default, and no other.
#[test]
fn the_documentation_has_every_key_with_its_default() {
    let document = include_str!("../../../docs/configuration.md");
    let documented: Vec<(String, String)> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let key = cells.next()?.strip_suffix('`')?;
            let default = cells.next()?.trim().trim_matches('`');
            key.contains('.').then(|| (key.into(), default.into()))
        })
        .collect();

    let files = Files::new();
    let free =
        [("assistants.NAME.args", ""), ("prices.MODEL.input", "1"), ("prices.MODEL.output", "1")];
    let rows = files.load(&[], &free).unwrap().rows();
    let value = |key: &str, value: Option<String>| match value {
        // A model has no price before it is given.
        Some(_) if key.starts_with("prices.") => "none".into(),
        value => value.unwrap_or_else(|| "none".into()),
    };
    let real: Vec<(String, String)> =
        rows.into_iter().map(|row| (row.key.clone(), value(&row.key, row.value))).collect();
    assert_eq!(documented, real);
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let document = include_str!("../../../docs/configuration.md");
    let examples: Vec<&str> =
        document.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let files = Files::new();
        files.write("user.yaml", example);
        files.load(&[], &[]).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
}

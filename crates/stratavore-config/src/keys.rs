//! The table of every key: how it is read into the [`Config`] and shown from it.
//!
//! Not the meaning of the keys: that is in `docs/configuration.md`, and a test holds the two
//! together.

use crate::settings::{
    AssistantSettings, BusUrl, Config, Daily, Embeddings, HostPort, LogFormat, LogLevel,
    PriceSettings, Recording, Resize, SslMode, StoreUrl, Switch, VaultUrl, keep_of_project,
};
use crate::value::{
    Given, Shown, Wanted, absolute, addresses, arguments, count, displayed, dollars, duration,
    labels, list, program, show_dollars, shown_if_set, size, text, variables,
};

/// One key. `assistants.NAME.…` and `prices.MODEL.…` are not here, since their names are free: see
/// [`AssistantKey`] and [`PriceKey`].
pub(crate) struct Key {
    pub name: &'static str,
    pub read: fn(&mut Config, &Given) -> Result<(), Wanted>,
    pub show: fn(&Config) -> Option<String>,
}

macro_rules! keys {
    ($($name:literal: $($field:ident).+ = $read:expr, $show:expr;)+) => {
        pub(crate) const KEYS: &[Key] = &[$(Key {
            name: $name,
            read: |config, given| {
                config.$($field).+ = $read(given)?;
                Ok(())
            },
            show: |config| $show(&config.$($field).+),
        }),+];
    };
}

keys! {
    "store.url": store.url = StoreUrl::read, displayed;
    "store.postgres.host": store.postgres.host = |g| text(g, "a host's name or address, or the directory of a Unix socket"), Shown::shown;
    "store.postgres.port": store.postgres.port = port, displayed;
    "store.postgres.database": store.postgres.database = |g| text(g, "a database's name"), Shown::shown;
    "store.postgres.user": store.postgres.user = |g| text(g, "a user's name"), Shown::shown;
    "store.postgres.password_file": store.postgres.password_file = |g| absolute(g).map(Some), Shown::shown;
    "store.postgres.sslmode": store.postgres.sslmode = |g| SslMode::read(g).map(Some), |mode: &Option<SslMode>| mode.map(|m| m.to_string());
    "store.postgres.root_cert": store.postgres.root_cert = |g| absolute(g).map(Some), Shown::shown;
    "store.pool.max_connections": store.pool.max_connections = |g| count(g, 1, 1000), Shown::shown;
    "store.pool.min_connections": store.pool.min_connections = |g| count(g, 0, 1000), Shown::shown;
    "store.pool.acquire_timeout": store.pool.acquire_timeout = |g| duration(g, "100ms", "5m"), Shown::shown;
    "store.pool.max_lifetime": store.pool.max_lifetime = |g| duration(g, "1m", "7d"), Shown::shown;
    "store.pool.idle_timeout": store.pool.idle_timeout = |g| duration(g, "10s", "1d"), Shown::shown;
    "store.pool.connect_timeout": store.pool.connect_timeout = |g| duration(g, "100ms", "5m"), Shown::shown;
    "store.pool.statement_timeout": store.pool.statement_timeout = |g| duration(g, "100ms", "1h"), Shown::shown;
    "store.transaction_alarm": store.transaction_alarm = |g| duration(g, "1s", "1d"), Shown::shown;

    "bus.url": bus.url = BusUrl::read, displayed;
    "bus.rabbitmq.host": bus.rabbitmq.host = |g| text(g, "a host's name or address"), Shown::shown;
    "bus.rabbitmq.port": bus.rabbitmq.port = port, displayed;
    "bus.rabbitmq.vhost": bus.rabbitmq.vhost = |g| amqp_name(g, "a virtual host's name"), Shown::shown;
    "bus.rabbitmq.user": bus.rabbitmq.user = |g| text(g, "a user's name"), Shown::shown;
    "bus.rabbitmq.password_file": bus.rabbitmq.password_file = |g| absolute(g).map(Some), Shown::shown;
    "bus.rabbitmq.tls": bus.rabbitmq.tls = Switch::read, displayed;
    "bus.rabbitmq.root_cert": bus.rabbitmq.root_cert = |g| absolute(g).map(Some), Shown::shown;
    "bus.rabbitmq.client_cert": bus.rabbitmq.client_cert = |g| absolute(g).map(Some), Shown::shown;
    "bus.rabbitmq.client_key_file": bus.rabbitmq.client_key_file = |g| absolute(g).map(Some), Shown::shown;
    "bus.rabbitmq.exchange": bus.rabbitmq.exchange = |g| amqp_name(g, "an exchange's name"), Shown::shown;
    "bus.rabbitmq.queues": bus.rabbitmq.queues = queues, Shown::shown;
    "bus.rabbitmq.window": bus.rabbitmq.window = |g| count(g, 4, 4096), Shown::shown;
    "bus.rabbitmq.message_max": bus.rabbitmq.message_max = |g| size(g, "1KiB", "16MiB"), Shown::shown;
    "bus.rabbitmq.connect_timeout": bus.rabbitmq.connect_timeout = |g| duration(g, "100ms", "1m"), Shown::shown;
    "bus.rabbitmq.refusals_max": bus.rabbitmq.refusals_max = |g| count(g, 1, 1000), Shown::shown;
    "bus.rabbitmq.refused_for": bus.rabbitmq.refused_for = |g| duration(g, "0s", "7d"), Shown::shown;

    "events.keep": events.keep = |g| duration(g, "1d", "36500d").map(Some), Shown::shown;
    "events.strict": events.strict = Switch::read, displayed;
    "events.verify": events.verify = Daily::read, displayed;

    "notify.allow_addresses": notify.allow_addresses = addresses, Shown::shown;
    "notify.root_cert": notify.root_cert = |g| absolute(g).map(Some), Shown::shown;
    "notify.timeout": notify.timeout = |g| duration(g, "100ms", "1m"), Shown::shown;

    "vault.url": vault.url = VaultUrl::read, displayed;
    "vault.s3.endpoint": vault.s3.endpoint = |g| safe_url(g).map(Some), Shown::shown;
    "vault.s3.region": vault.s3.region = region, Shown::shown;
    "vault.s3.credentials_file": vault.s3.credentials_file = |g| absolute(g).map(Some), Shown::shown;
    "vault.s3.timeout": vault.s3.timeout = |g| duration(g, "1s", "10m"), Shown::shown;
    "vault.keep": vault.keep = |g| duration(g, "1d", "36500d").map(Some), Shown::shown;
    "vault.keep_projects": vault.keep_projects = keep_projects, Shown::shown;

    "search.embeddings": search.embeddings = Embeddings::read, displayed;
    "search.url": search.url = |g| http_url(g).map(Some), Shown::shown;
    "search.model": search.model = |g| text(g, "a model's name").map(Some), Shown::shown;
    "search.key_file": search.key_file = |g| absolute(g).map(Some), Shown::shown;
    "search.timeout": search.timeout = |g| duration(g, "100ms", "10m"), Shown::shown;

    "agent.binary": agent.binary = |g| absolute(g).map(Some), Shown::shown;
    "agent.sockets": agent.sockets = sockets, Shown::shown;
    "agent.heartbeat": agent.heartbeat = |g| duration(g, "100ms", "5m"), Shown::shown;
    "agent.output_segment_bytes": agent.output_segment_bytes = |g| size(g, "64KiB", "64MiB"), Shown::shown;
    "agent.output_max_bytes": agent.output_max_bytes = |g| size(g, "128KiB", "64GiB"), Shown::shown;
    "agent.recording": agent.recording = Recording::read, displayed;

    "runner.grace": runner.grace = |g| duration(g, "0s", "1h"), Shown::shown;
    "runner.unresponsive_after": runner.unresponsive_after = |g| duration(g, "200ms", "1d"), Shown::shown;
    "runner.launch_timeout": runner.launch_timeout = |g| duration(g, "1s", "1h"), Shown::shown;
    "runner.keep_ended": runner.keep_ended = |g| duration(g, "1s", "3650d"), Shown::shown;
    "runner.restart_backoff": runner.restart_backoff = |g| duration(g, "10ms", "1h"), Shown::shown;
    "runner.restart_backoff_max": runner.restart_backoff_max = |g| duration(g, "10ms", "1d"), Shown::shown;
    "runner.crash_loop_limit": runner.crash_loop_limit = |g| count(g, 1, 1000), Shown::shown;
    "runner.crash_loop_window": runner.crash_loop_window = |g| duration(g, "1s", "7d"), Shown::shown;
    "runner.env_pass": runner.env_pass = variables, Shown::shown;
    "runner.env_allow": runner.env_allow = variables, Shown::shown;

    "node.listen": node.listen = HostPort::read, shown_if_set;
    "node.address": node.address = HostPort::read, shown_if_set;
    "node.labels": node.labels = labels, Shown::shown;
    "node.capacity": node.capacity = |g| count(g, 0, 100_000).map(Some), Shown::shown;

    "attach.detach_key": attach.detach_key = detach_key, displayed;
    "attach.resize": attach.resize = Resize::read, displayed;

    "daemon.log": daemon.log = LogFormat::read, displayed;
    "daemon.log_level": daemon.log_level = LogLevel::read, displayed;
    "daemon.shutdown_grace": daemon.shutdown_grace = |g| duration(g, "0s", "10m"), Shown::shown;
}

fn port(given: &Given) -> Result<u16, Wanted> {
    count(given, 1, 65535).map(|n| u16::try_from(n).expect("within the range"))
}

/// A name that AMQP carries in at most 255 bytes. What begins with `amq.` is the broker's.
fn amqp_name(given: &Given, what: &str) -> Result<String, Wanted> {
    let fits = |name: &String| name.len() <= 255 && !name.starts_with("amq.");
    let wanted = || format!("{what} of at most 255 bytes that does not begin with `amq.`");
    text(given, what).ok().filter(fits).ok_or_else(wanted)
}

fn queues(given: &Given) -> Result<Vec<String>, Wanted> {
    let names = list(given, "queue names")?;
    for name in &names {
        amqp_name(&Given::Text(name.clone()), "a list of queue names, each")?;
    }
    Ok(names)
}

/// Projects with how long their conversations are kept.
fn sockets(given: &Given) -> Result<Vec<String>, Wanted> {
    const MOST: usize = 8;
    let paths = list(given, "absolute paths")?;
    let is_path = |path: &&String| path.starts_with('/') && !path.contains('\0');
    match paths.iter().find(|path| !is_path(path)) {
        Some(wrong) => {
            Err(format!("a list of absolute paths, and `{}` is none", wrong.escape_debug()))
        }
        None if paths.len() > MOST => Err(format!("a list of up to {MOST} absolute paths")),
        None => Ok(paths),
    }
}

fn keep_projects(given: &Given) -> Result<Vec<String>, Wanted> {
    const WHAT: &str = "projects with how long each is kept, at least a day, such as `shop=90d`";
    let pairs = list(given, WHAT)?;
    match pairs.iter().find(|pair| keep_of_project(pair).is_none()) {
        None => Ok(pairs),
        Some(wrong) => Err(format!("a list of {WHAT}, and `{}` is none", wrong.escape_debug())),
    }
}

fn http_url(given: &Given) -> Result<String, Wanted> {
    let what = "an http or https URL without a user, a password or a question mark";
    let url = text(given, what)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_good = rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['@', '?', '#', ' '])
    });
    if is_good { Ok(url) } else { Err(what.into()) }
}

/// One that secrets may be sent by: nobody listens in on what stays on this host.
fn safe_url(given: &Given) -> Result<String, Wanted> {
    let what =
        "an https URL, or an http one of this host, without a user, a password or a question mark";
    let url = http_url(given).map_err(|_| what)?;
    let Some(rest) = url.strip_prefix("http://") else { return Ok(url) };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_here { Ok(url) } else { Err(what.into()) }
}

fn region(given: &Given) -> Result<String, Wanted> {
    const WHAT: &str = "a region's name, such as `eu-central-1`";
    let name = text(given, WHAT)?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if name.len() <= 63 && name.bytes().all(fits) { Ok(name) } else { Err(WHAT.into()) }
}

fn detach_key(given: &Given) -> Result<crate::DetachKey, Wanted> {
    let keys = text(given, "keys such as `ctrl-q` or `ctrl-a d`")?;
    keys.parse().map_err(|error| format!("keys such as `ctrl-q` or `ctrl-a d`: {error}"))
}

/// One key of an assistant, below `assistants.NAME`.
pub(crate) struct AssistantKey {
    pub name: &'static str,
    pub read: fn(&mut AssistantSettings, &Given) -> Result<(), Wanted>,
    pub show: fn(&AssistantSettings) -> Option<String>,
}

pub(crate) const ASSISTANT_KEYS: &[AssistantKey] = &[
    AssistantKey {
        name: "program",
        read: |assistant, given| {
            assistant.program = Some(program(given)?);
            Ok(())
        },
        show: |assistant| assistant.program.shown(),
    },
    AssistantKey {
        name: "args",
        read: |assistant, given| {
            assistant.args = arguments(given)?;
            Ok(())
        },
        show: |assistant| crate::secret::hide(&assistant.args).shown(),
    },
    AssistantKey {
        name: "env_pass",
        read: |assistant, given| {
            assistant.env_pass = variables(given)?;
            Ok(())
        },
        show: |assistant| assistant.env_pass.shown(),
    },
];

/// One price of a model, below `prices.MODEL`.
pub(crate) struct PriceKey {
    pub name: &'static str,
    pub read: fn(&mut PriceSettings, &Given) -> Result<(), Wanted>,
    pub show: fn(&PriceSettings) -> Option<String>,
}

macro_rules! price_keys {
    ($($name:literal: $field:ident),+ $(,)?) => {
        pub(crate) const PRICE_KEYS: &[PriceKey] = &[$(PriceKey {
            name: $name,
            read: |price, given| {
                price.$field = Some(dollars(given)?);
                Ok(())
            },
            show: |price| price.$field.map(show_dollars),
        }),+];
    };
}

price_keys! {
    "input": input,
    "output": output,
    "cache_read": cache_read,
    "cache_write": cache_write,
    "cache_write_1h": cache_write_1h,
}

/// The section that holds assistants by name.
pub(crate) const ASSISTANTS: &str = "assistants";
/// The section that holds prices by models.
pub(crate) const PRICES: &str = "prices";

/// True for a section below the section `above`: what stands before a `.` in some key.
pub(crate) fn is_section(above: &str, path: &str) -> bool {
    if above == ASSISTANTS || is_assistant(above) {
        return above == ASSISTANTS && is_assistant(path);
    }
    if above == PRICES || is_price(above) {
        return above == PRICES && is_price(path);
    }
    let below = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    path == ASSISTANTS || path == PRICES || KEYS.iter().any(|key| below(key.name))
}

/// True for `assistants.NAME`, where the name may be one.
pub(crate) fn is_assistant(path: &str) -> bool {
    let name = path.strip_prefix(ASSISTANTS).and_then(|rest| rest.strip_prefix('.'));
    name.is_some_and(|name| {
        name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
    })
}

/// Takes `assistants.NAME.KEY` apart.
pub(crate) fn assistant_key(path: &str) -> Option<(&str, &'static AssistantKey)> {
    let (assistant, name) = path.rsplit_once('.')?;
    let key = ASSISTANT_KEYS.iter().find(|key| key.name == name)?;
    is_assistant(assistant).then(|| (&assistant[ASSISTANTS.len() + 1..], key))
}

/// True for `prices.MODEL`, where the model may be one, or the beginning of one and a `*`.
pub(crate) fn is_price(path: &str) -> bool {
    let model = path.strip_prefix(PRICES).and_then(|rest| rest.strip_prefix('.'));
    model.is_some_and(|model| {
        let name = model.strip_suffix('*').unwrap_or(model);
        !name.is_empty()
            && model.len() <= 128
            && name.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
    })
}

/// Takes `prices.MODEL.KEY` apart.
pub(crate) fn price_key(path: &str) -> Option<(&str, &'static PriceKey)> {
    let (price, name) = path.rsplit_once('.')?;
    let key = PRICE_KEYS.iter().find(|key| key.name == name)?;
    is_price(price).then(|| (&price[PRICES.len() + 1..], key))
}

pub(crate) fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == path)
}

/// The key that was probably meant.
pub(crate) fn nearest(path: &str) -> Option<String> {
    let candidates = KEYS.iter().map(|key| key.name.to_string());
    let sections = [
        "store",
        "store.pool",
        "store.postgres",
        "bus",
        "bus.rabbitmq",
        "notify",
        "vault",
        "vault.s3",
        "search",
        "agent",
        "runner",
        "node",
        "attach",
        "daemon",
        ASSISTANTS,
        PRICES,
    ];
    let assistant = path.rsplit_once('.').map_or("", |(assistant, _)| assistant);
    let assistants = ASSISTANT_KEYS
        .iter()
        .filter(|_| is_assistant(assistant))
        .map(|k| format!("{assistant}.{}", k.name));
    let prices = PRICE_KEYS
        .iter()
        .filter(|_| is_price(assistant))
        .map(|k| format!("{assistant}.{}", k.name));
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    candidates
        .chain(assistants)
        .chain(prices)
        .chain(sections.into_iter().map(String::from))
        .map(|candidate| {
            let whole = strsim::damerau_levenshtein(path, &candidate);
            // The right key in the wrong section is near as well.
            let misplaced = strsim::damerau_levenshtein(&last(path), &last(&candidate)) * 2 + 2;
            (whole.min(misplaced), whole, candidate)
        })
        .min()
        .filter(|(distance, _, _)| *distance <= (path.len() / 3).clamp(2, 5))
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_reads_back_as_itself() {
        let default = Config::default();
        for key in KEYS {
            let Some(shown) = (key.show)(&default) else { continue };
            let given = match shown.strip_prefix('[') {
                Some(list) => Given::Line(list.trim_end_matches(']').into()),
                None => Given::Text(shown),
            };
            let mut read = Config::default();
            (key.read)(&mut read, &given).unwrap_or_else(|wanted| panic!("{}: {wanted}", key.name));
            assert_eq!(read, default, "{}", key.name);
        }
    }

    #[test]
    fn the_nearest_key_is_suggested() {
        for (typed, meant) in [
            ("store.pool.max_conections", Some("store.pool.max_connections")),
            ("store.max_connections", Some("store.pool.max_connections")),
            ("runner.heartbeat", Some("agent.heartbeat")),
            ("runer.grace", Some("runner.grace")),
            ("stor", Some("store")),
            ("assistants.claude.programm", Some("assistants.claude.program")),
            ("prices.gpt-5.9.inptu", Some("prices.gpt-5.9.input")),
            ("price", Some("prices")),
            ("something.entirely.different", None),
        ] {
            assert_eq!(nearest(typed).as_deref(), meant, "{typed}");
        }
    }
}

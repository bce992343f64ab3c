//! What people ask for, made a definition or refused with what to do instead.

use std::time::Duration;

use jiff::tz::TimeZone;
use stratavore_core::name::Name;
use stratavore_core::notify::rules::{self, Quiet};
use stratavore_core::notify::{
    Channel, Definition, MailTls, Rules, SecretRef, Severity, Topic, Url,
};

use crate::control::Control;
use crate::error::Error;

const NTFY: &str = "https://ntfy.sh";
const GROUP_DEFAULT: Duration = Duration::from_secs(10);
const GROUP_MAX: Duration = Duration::from_secs(24 * 3600);
/// For people; programs can take what there is.
const PER_HOUR_DEFAULT: u32 = 30;
const PER_HOUR_MAX: u32 = 3600;
const PATTERNS_MAX: usize = 32;
const RECEIVERS_MAX: usize = 32;
const TEXT_MAX: usize = 254;

/// A destination as somebody asks for it; what was not given is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewDestination {
    pub name: String,
    pub kind: String,
    pub url: String,
    pub secret: String,
    pub token: String,
    pub chat: String,
    pub topic: String,
    pub host: String,
    pub port: u16,
    pub tls: String,
    pub user: String,
    pub password: String,
    pub from: String,
    pub to: Vec<String>,

    pub events: Vec<String>,
    /// By name or id.
    pub projects: Vec<String>,
    pub severity: String,
    pub quiet: String,
    pub zone: String,
    pub urgent: String,
    pub group: Option<Duration>,
    /// 0: no limit.
    pub per_hour: Option<u32>,
}

impl Control {
    /// The name and the definition, with everything checked that needs nobody else.
    pub(super) async fn define(&self, new: NewDestination) -> Result<(String, Definition), Error> {
        let name: Name = new.name.parse().map_err(|error: stratavore_core::name::NameError| {
            Error::invalid(error.to_string(), "choose another name")
        })?;
        if name.as_str() == "rabbitmq" {
            let hint = "choose another name; RabbitMQ is set up by bus.url";
            return Err(Error::invalid("`rabbitmq` is the name of another destination", hint));
        }
        let channel = self.channel(&new)?;
        let rules = self.rules(&new, &channel).await?;
        Ok((name.to_string(), Definition { channel, rules }))
    }

    fn channel(&self, new: &NewDestination) -> Result<Channel, Error> {
        let channel = match new.kind.as_str() {
            "webhook" => {
                let secret = secret("--secret", &new.secret)?;
                Channel::Webhook { url: url("--url", &new.url)?, secret }
            }
            "slack" => match url("--url", &new.url)? {
                Url::Secret(url) => Channel::Slack { url },
                Url::Plain(_) => {
                    return Err(Error::invalid(
                        "the URL of a Slack webhook is a secret as a whole",
                        "put it into a file of mode 600 and give --url file:/PATH",
                    ));
                }
            },
            "telegram" => Channel::Telegram {
                token: secret("--token", &new.token)?,
                chat: text("--chat", &new.chat)?,
                server: optional(&new.url, |text| url("--url", text))?,
            },
            "ntfy" => Channel::Ntfy {
                server: url("--url", if new.url.is_empty() { NTFY } else { &new.url })?,
                topic: topic(&new.topic)?,
                token: optional(&new.token, |text| secret("--token", text))?,
            },
            "email" => mail(new)?,
            "desktop" => Channel::Desktop { node: self.here() },
            other => {
                let kinds = Channel::KINDS.join(", ");
                let message = format!("there is no kind of destination `{}`", other.escape_debug());
                return Err(Error::invalid(message, format!("use one of {kinds}")));
            }
        };
        let given = [
            ("--url", !new.url.is_empty()),
            ("--secret", !new.secret.is_empty()),
            ("--token", !new.token.is_empty()),
            ("--chat", !new.chat.is_empty()),
            ("--topic", !new.topic.is_empty()),
            ("--host", !new.host.is_empty()),
            ("--port", new.port != 0),
            ("--mail-tls", !new.tls.is_empty()),
            ("--user", !new.user.is_empty()),
            ("--password", !new.password.is_empty()),
            ("--from", !new.from.is_empty()),
            ("--to", !new.to.is_empty()),
        ];
        let its: &[&str] = match channel.kind() {
            "webhook" => &["--url", "--secret"],
            "slack" => &["--url"],
            "telegram" => &["--url", "--token", "--chat"],
            "ntfy" => &["--url", "--token", "--topic"],
            "email" => {
                &["--host", "--port", "--mail-tls", "--user", "--password", "--from", "--to"]
            }
            _ => &[],
        };
        match given.iter().find(|(option, given)| *given && !its.contains(option)) {
            None => Ok(channel),
            Some((option, _)) => Err(Error::invalid(
                format!("{option} means nothing to {}", channel.kind()),
                "leave it out: stratavore notify add --help",
            )),
        }
    }

    async fn rules(&self, new: &NewDestination, channel: &Channel) -> Result<Rules, Error> {
        if new.events.len() > PATTERNS_MAX || new.projects.len() > PATTERNS_MAX {
            return Err(Error::invalid(
                format!("more than {PATTERNS_MAX} patterns or projects are named"),
                "name fewer; # stands for any words of a kind",
            ));
        }
        for pattern in &new.events {
            rules::check_pattern(pattern).map_err(|message| {
                Error::invalid(message, "such as runner.failed, runner.*, or #")
            })?;
        }
        let mut projects = Vec::new();
        for project in &new.projects {
            projects.push(self.project(project).await?.id);
        }
        // Who names events wants them, and programs get all; people hear of what matters.
        let usual = match new.events.is_empty() && !channel.is_for_programs() {
            true => Severity::Warning,
            false => Severity::Info,
        };
        let severity = severity(&new.severity)?.unwrap_or(usual);
        let usual = if channel.is_for_programs() { Duration::ZERO } else { GROUP_DEFAULT };
        let group = new.group.unwrap_or(usual);
        if group > GROUP_MAX {
            let message = format!("a group of {} s would come too late", group.as_secs());
            return Err(Error::invalid(message, "gather for at most 24 h"));
        }
        let per_hour = match new.per_hour {
            Some(0) => None,
            None => (!channel.is_for_programs()).then_some(PER_HOUR_DEFAULT),
            Some(limit) if limit <= PER_HOUR_MAX => Some(limit),
            Some(limit) => {
                let message = format!("{limit} messages in an hour are over the limit");
                return Err(Error::invalid(
                    message,
                    format!("give at most {PER_HOUR_MAX}, or 0 for no limit"),
                ));
            }
        };
        let quiet = quiet(new)?;
        if quiet.is_some() && group.is_zero() {
            return Err(Error::invalid(
                "quiet hours gather what comes, and without a group nothing is gathered",
                "give --group as well, such as --group 10s",
            ));
        }
        let group_ms = u64::try_from(group.as_millis()).unwrap_or(u64::MAX);
        Ok(Rules { kinds: new.events.clone(), projects, severity, quiet, group_ms, per_hour })
    }
}

fn severity(text: &str) -> Result<Option<Severity>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = || Severity::ALL.map(Severity::as_str).join(", ");
    let message = || format!("`{}` is no severity", text.escape_debug());
    let found = Severity::parse(text);
    found.map(Some).ok_or_else(|| Error::invalid(message(), format!("use one of {}", known())))
}

fn quiet(new: &NewDestination) -> Result<Option<Quiet>, Error> {
    if new.quiet.is_empty() {
        return match new.zone.is_empty() && new.urgent.is_empty() {
            true => Ok(None),
            false => Err(Error::invalid(
                "--zone and --urgent are about quiet hours, and there are none",
                "give --quiet-hours as well, such as --quiet-hours 22:00-07:00",
            )),
        };
    }
    let (from, to) = Quiet::parse_hours(&new.quiet).ok_or_else(|| {
        let message = format!("`{}` are no quiet hours", new.quiet.escape_debug());
        Error::invalid(message, "give two different times of 24 hours, such as 22:00-07:00")
    })?;
    let zone = if new.zone.is_empty() { "UTC" } else { &new.zone };
    find_zone(zone)?;
    let urgent = severity(&new.urgent)?.unwrap_or(Severity::Critical);
    Ok(Some(Quiet { from, to, zone: zone.into(), urgent }))
}

/// A time zone by its name.
pub(crate) fn find_zone(name: &str) -> Result<TimeZone, Error> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| {
        Error::invalid(
            format!("the time zone `{}` is not known on this host", name.escape_debug()),
            "give a name such as Europe/Berlin; the package tzdata brings them",
        )
    })
}

fn required<'t>(option: &str, text: &'t str) -> Result<&'t str, Error> {
    match text {
        "" => Err(Error::invalid(
            format!("{option} is missing"),
            "see what each kind needs: stratavore notify add --help",
        )),
        text => Ok(text),
    }
}

fn optional<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    (!text.is_empty()).then(|| read(text)).transpose()
}

fn secret(option: &str, text: &str) -> Result<SecretRef, Error> {
    required(option, text)?.parse().map_err(|why| {
        Error::invalid(
            format!("{option} is not good: {why}"),
            "put the secret into a file of mode 600 on each host that is to send, and give file:/PATH",
        )
    })
}

fn url(option: &str, text: &str) -> Result<Url, Error> {
    required(option, text)?.parse().map_err(|why| {
        Error::invalid(format!("{option} is not good: {why}"), "such as https://example.org/hook")
    })
}

/// A text for a receiver: printable, and not long.
fn text(option: &str, text: &str) -> Result<String, Error> {
    let text = required(option, text)?;
    match text.len() <= TEXT_MAX && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(Error::invalid(
            format!("{option} has control characters or more than {TEXT_MAX} bytes"),
            "give it as the receiver shows it",
        )),
    }
}

fn topic(text: &str) -> Result<Topic, Error> {
    let text = required("--topic", text)?;
    if SecretRef::is_meant(text) {
        return secret("--topic", text).map(Topic::Secret);
    }
    let is_topic = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    match text.len() <= 64 && text.bytes().all(is_topic) {
        true => Ok(Topic::Plain(text.into())),
        false => Err(Error::invalid(
            format!(
                "`{}` is no topic of ntfy",
                text.chars().take(64).collect::<String>().escape_debug()
            ),
            "use up to 64 letters, digits, - and _",
        )),
    }
}

fn mail(new: &NewDestination) -> Result<Channel, Error> {
    let tls = match new.tls.as_str() {
        "" => MailTls::Starttls,
        text => MailTls::parse(text).ok_or_else(|| {
            let message = format!("`{}` is no way to protect mail", text.escape_debug());
            Error::invalid(message, "use starttls, tls or off")
        })?,
    };
    let user = optional(&new.user, |user| text("--user", user))?;
    let password = optional(&new.password, |text| secret("--password", text))?;
    if user.is_some() != password.is_some() {
        return Err(Error::invalid("--user and --password go together", "give both, or none"));
    }
    if user.is_some() && tls == MailTls::Off {
        return Err(Error::invalid(
            "without TLS the password would go over the network for all to read",
            "use --mail-tls starttls or tls",
        ));
    }
    if new.to.is_empty() || new.to.len() > RECEIVERS_MAX {
        return Err(Error::invalid(
            format!("{} receivers of mail are named", new.to.len()),
            format!("name 1 to {RECEIVERS_MAX} with --to"),
        ));
    }
    let to = new.to.iter().map(|to| address("--to", to)).collect::<Result<_, Error>>()?;
    let host = text("--host", &new.host)?;
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':');
    if !host.bytes().all(is_host) {
        let message = format!("`{}` is no host", host.escape_debug());
        return Err(Error::invalid(message, "give the name of a mail server"));
    }
    let port = if new.port == 0 { tls.port() } else { new.port };
    Ok(Channel::Email { host, port, tls, user, password, from: address("--from", &new.from)?, to })
}

/// What stands in `MAIL FROM:<…>`: nothing in it ends the brackets or the line.
fn address(option: &str, text: &str) -> Result<String, Error> {
    let text = required(option, text)?;
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_graphic() && !b"<>()[]\\,;:@\" ".contains(&b))
    };
    let good = text.split_once('@').is_some_and(|(name, host)| is_part(name) && is_part(host));
    match good && text.len() <= TEXT_MAX {
        true => Ok(text.into()),
        false => Err(Error::invalid(
            format!(
                "{option} is no address of mail: `{}`",
                text.chars().take(80).collect::<String>().escape_debug()
            ),
            "such as ops@example.org, without a name beside it",
        )),
    }
}

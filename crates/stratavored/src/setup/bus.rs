//! The broker, as it is configured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratavore_bus::rabbit;
use stratavore_config as config;
use stratavore_control::{RabbitSettings, chain};
use stratavore_proto::version::VERSION;

use crate::times::or_as_tested;

/// How often it is looked whether the broker's queues are read, and how long one may be unread.
const QUEUES_EVERY: Duration = Duration::from_secs(30);
const UNREAD_FOR: Duration = Duration::from_secs(600);

/// A broker that has said nothing for twice as long is taken for gone.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How events get to RabbitMQ, if they are to.
pub(super) fn rabbit(bus: &config::Bus) -> Option<RabbitSettings> {
    match bus.url {
        config::BusUrl::None => return None,
        config::BusUrl::Rabbitmq => {}
    }
    let config::Rabbitmq { host, port, vhost, user, exchange, queues, .. } = &bus.rabbitmq;
    let shown = serde_json::json!({
        "host": host, "port": port, "vhost": vhost, "user": user, "tls": bus.rabbitmq.tls.as_str(),
        "exchange": exchange, "queues": queues,
    });
    let own = bus.rabbitmq.clone();
    Some(RabbitSettings {
        window: own.window as usize,
        refusals_max: own.refusals_max,
        refused_for: own.refused_for,
        queues_every: or_as_tested("queues_every", QUEUES_EVERY),
        unread_for: or_as_tested("unread_for", UNREAD_FOR),
        shown: shown.to_string(),
        broker: Arc::new(move || broker(&own)),
    })
}

/// Reads what may have changed since the last connection: the password and the certificates.
fn broker(own: &config::Rabbitmq) -> Result<rabbit::Settings, String> {
    let password = match &own.password_file {
        Some(path) => config::read_secret(path).map_err(|error| chain(&error))?,
        None => return Err("bus.rabbitmq.password_file is not set".into()),
    };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let shown = match own.client_cert.as_ref().zip(own.client_key_file.as_ref()) {
        Some((certificate, key)) => Some(rabbit::Own {
            certificate: read(certificate)?,
            key: config::read_key(key).map_err(|error| chain(&error))?,
        }),
        None => None,
    };
    let roots = own.root_cert.as_ref().map(read).transpose()?;
    Ok(rabbit::Settings {
        host: own.host.clone(),
        port: own.port,
        vhost: own.vhost.clone(),
        user: own.user.clone(),
        password,
        tls: match own.tls {
            config::Switch::Off => None,
            config::Switch::On => Some(rabbit::Tls { roots, own: shown }),
        },
        exchange: own.exchange.clone(),
        queues: own.queues.clone(),
        message_max: usize::try_from(own.message_max).unwrap_or(usize::MAX),
        connect_timeout: own.connect_timeout,
        heartbeat: HEARTBEAT,
        name: format!("stratavored {VERSION}"),
    })
}

//! A connection to a broker: made, watched, and ended for good when it is dropped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Event};
use rustix::net::{Shutdown, shutdown, sockopt};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::words;
use super::topology::{declare, look, short};
use super::wire::{self, Wire, runtime};
use super::{Lane, Queue, RabbitError, Settings};

/// How long an orderly end may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long looking at queues may take, while nothing else is done with the connection.
const LOOK: Duration = Duration::from_secs(1);

/// How long the kernel waits for a sign of the other side's, in milliseconds.
const USER_TIMEOUT_MS: u32 = 20_000;

/// A living connection. Dropping it ends it, whatever it waits for.
pub struct Link {
    connection: Connection,
    settings: Settings,
    news: Pin<Box<dyn Stream<Item = Event> + Send + Sync>>,
    /// Ends with the link, and the connection with it.
    _socket: Socket,
}

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The broker takes nothing until it says otherwise, as while it is short of memory or disk.
    Blocked(String),
    Unblocked,
    /// It is over.
    Lost(String),
}

impl Link {
    /// Connects and declares what is needed, within the timeout for each.
    pub async fn connect(settings: Settings) -> Result<Link, RabbitError> {
        let socket = Socket::default();
        let limit = settings.connect_timeout;
        let stream = match timeout(limit * 2, open(&settings, &socket)).await {
            Ok(stream) => Mutex::new(Some(stream?)),
            Err(_) => return Err(silent(&settings)),
        };
        let connecting = Connection::connector(
            uri(&settings),
            runtime(),
            // Asked again, after a failure, it has no other.
            async move |_, _| {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
            },
            ConnectionProperties::default()
                .with_connection_name(LongString::from(settings.name.as_str())),
        );
        // Dropped here, the socket ends a handshake that nobody answers.
        let connection = match timeout(limit * 2, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(refused(&settings, &error)),
            Err(_) => return Err(silent(&settings)),
        };
        let news = Box::pin(connection.events_listener());
        let link = Link { connection, settings, news, _socket: socket };
        link.declare().await?;
        Ok(link)
    }

    /// Declares what is needed, once more.
    pub async fn declare(&self) -> Result<(), RabbitError> {
        let declared = async {
            // One of its own: a refusal ends it.
            let channel = self.connection.create_channel().await;
            let channel = channel.map_err(|error| RabbitError::of("open a channel", &error))?;
            declare(&channel, &self.settings).await?;
            channel.close(200, "OK".into()).await.ok();
            Ok(())
        };
        match timeout(self.settings.connect_timeout * 2, declared).await {
            Ok(declared) => declared,
            Err(_) => Err(RabbitError::Away("the broker does not answer a declaration".into())),
        }
    }

    /// How the queues are that were declared.
    pub async fn queues(&self) -> Result<Vec<Queue>, RabbitError> {
        let looking = async {
            let channel = self.connection.create_channel().await;
            let channel = channel.map_err(|error| RabbitError::of("open a channel", &error))?;
            let seen = look(&channel, &self.settings).await?;
            channel.close(200, "OK".into()).await.ok();
            Ok(seen)
        };
        match timeout(LOOK, looking).await {
            Ok(seen) => seen,
            Err(_) => Err(RabbitError::Away("the broker does not tell how its queues are".into())),
        }
    }

    /// Opens a channel with confirms.
    pub async fn lane(&self) -> Result<Lane, RabbitError> {
        let opened = async {
            let channel = self.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        match timeout(self.settings.connect_timeout, opened).await {
            Ok(Ok(channel)) => {
                Ok(Lane::new(channel, short(&self.settings.exchange)?, self.settings.message_max))
            }
            Ok(Err(error)) => Err(RabbitError::of("open a channel", &error)),
            Err(_) => Err(RabbitError::Away("the broker does not open a channel".into())),
        }
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    pub fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Waits for what happens next. May be dropped while it waits.
    pub async fn news(&mut self) -> News {
        loop {
            match self.news.next().await {
                Some(Event::ConnectionBlocked(why)) => return News::Blocked(why),
                Some(Event::ConnectionUnblocked) => return News::Unblocked,
                Some(Event::Error(error)) if !self.is_open() => return News::Lost(words(&error)),
                None => return News::Lost("the connection ended".into()),
                Some(_) => {}
            }
        }
    }

    /// Ends it in order, if the other side still listens.
    pub async fn close(self) {
        // Either way it is over then.
        timeout(GOODBYE, self.connection.close(200, "OK".into())).await.ok();
    }
}

/// Our own handle of a connection's socket. lapin has no way to give up on a broker that is silent:
/// its thread would wait for as long as the kernel does.
#[derive(Default)]
struct Socket(Arc<Mutex<Option<OwnedFd>>>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // One that has ended already cannot be shut down, and need not.
            shutdown(socket, Shutdown::Both).ok();
        }
    }
}

/// Keeps a handle of a socket, so that it can be ended whoever has it.
fn keep(socket: &impl AsFd, kept: &Mutex<Option<OwnedFd>>) -> io::Result<()> {
    let own = socket.as_fd().try_clone_to_owned()?;
    // What a silent broker does not acknowledge is not waited for longer than it is listened to.
    sockopt::set_tcp_user_timeout(&own, USER_TIMEOUT_MS).ok();
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
    Ok(())
}

/// Connects to one of the broker's addresses, with TLS if that is wanted.
async fn open(
    settings: &Settings,
    socket: &Socket,
) -> Result<AsyncTcpStream<Box<dyn Wire>>, RabbitError> {
    let away = |error: io::Error| {
        RabbitError::Away(format!("connect to {}:{}: {error}", settings.host, settings.port))
    };
    let mut failed = io::Error::other("the name has no address");
    let at = (settings.host.as_str(), settings.port);
    for address in tokio::net::lookup_host(at).await.map_err(away)? {
        let connected = timeout(settings.connect_timeout, TcpStream::connect(address)).await;
        let stream = match connected.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => stream,
            Err(error) => {
                failed = error;
                continue;
            }
        };
        stream.set_nodelay(true).map_err(away)?;
        keep(&stream, &socket.0).map_err(away)?;
        return match &settings.tls {
            None => Ok(wire::plain(stream)),
            Some(tls) => wire::encrypted(stream, &settings.host, tls).await,
        };
    }
    Err(away(failed))
}

fn silent(settings: &Settings) -> RabbitError {
    RabbitError::Away(format!("{}:{} does not answer", settings.host, settings.port))
}

fn refused(settings: &Settings, error: &lapin::Error) -> RabbitError {
    // A broker refuses a certificate only after TLS is there. Why is not always heard: it may have
    // ended the connection before that was read.
    if let lapin::ErrorKind::IOError(ended) = error.kind()
        && settings.tls.is_some()
    {
        return wire::refused(ended).unwrap_or_else(|| {
            RabbitError::Away(format!(
                "{}:{} has ended the connection: {ended}; one that asks for a certificate and does \
                 not believe what it is shown does so: bus.rabbitmq.client_cert",
                settings.host, settings.port
            ))
        });
    }
    let to = format!("connect to {}:{}", settings.host, settings.port);
    RabbitError::of(&to, error)
}

fn uri(settings: &Settings) -> AMQPUri {
    AMQPUri {
        // lapin does no TLS here.
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: settings.user.clone(),
                password: settings.password.expose_secret().to_owned(),
            },
            host: settings.host.clone(),
            port: settings.port,
        },
        vhost: settings.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1)),
            ..AMQPQueryString::default()
        },
    }
}

//! What can be wrong with a broker, in words for who looks after it.

use lapin::ErrorKind;
use lapin::protocol::{AMQPError, AMQPErrorKind};

/// Why there is no connection, or no longer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RabbitError {
    /// It is not there, or does not answer. It may be back any time.
    #[error("{0}")]
    Away(String),
    /// It is there, and will say the same until somebody changes something.
    #[error("{what}; {hint}")]
    Misconfigured { what: String, hint: String },
}

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

impl RabbitError {
    pub(super) fn misconfigured(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Misconfigured { what: what.into(), hint: hint.into() }
    }

    /// What went wrong while `doing`.
    pub(super) fn of(doing: &str, error: &lapin::Error) -> Self {
        let said = words(error);
        let what = format!("{doing}: {said}");
        match code(error) {
            Some(ACCESS_REFUSED) => Self::misconfigured(
                what,
                "check bus.rabbitmq.user and password_file, and give this user the permissions to \
                 configure, write and read in the virtual host: rabbitmqctl set_permissions",
            ),
            Some(NOT_FOUND | NOT_ALLOWED) => Self::misconfigured(
                what,
                "check bus.rabbitmq.vhost, and that this user may use it: rabbitmqctl list_permissions",
            ),
            Some(PRECONDITION_FAILED) => Self::misconfigured(
                what,
                "something of this name has other arguments: remove it there, or name another one here",
            ),
            Some(_) | None => Self::Away(what),
        }
    }
}

/// What the broker said, or the connection.
pub(super) fn words(error: &lapin::Error) -> String {
    match said(error) {
        Some(said) => said.get_message().to_string(),
        None => error.to_string(),
    }
}

pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    said(error).map(AMQPError::get_id)
}

/// True for an error that ends a channel and leaves the connection.
pub(super) fn is_soft(error: &lapin::Error) -> bool {
    said(error).is_some_and(|said| matches!(said.kind(), AMQPErrorKind::Soft(_)))
}

fn said(error: &lapin::Error) -> Option<&AMQPError> {
    if let ErrorKind::ProtocolError(said) = error.kind() { Some(said) } else { None }
}

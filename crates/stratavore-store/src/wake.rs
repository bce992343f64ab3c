//! Wake-ups between the daemons of one database, by PostgreSQL's LISTEN and NOTIFY.
//!
//! A notification says that there is something to look at, and never what: one that is lost costs the
//! wait until the next look, and one too many costs a look. Each is sent by itself and not in the
//! transaction that it tells of: all that notify take one lock of the whole server when they commit.
//!
//! SQLite has one daemon, and nobody to tell.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Acquire, ConnectOptions, Connection};

use crate::deadline::Deadline;
use crate::error::doing;
use crate::tx::{Reader, no_connection};
use crate::{Engine, Store, StoreError};

const CHANNEL: &str = "stratavore";

const TELL_POSTGRES: &str = "SELECT pg_notify('stratavore', $1)";

statements! { TELL_POSTGRES }

/// What the connection that listens calls itself.
const APPLICATION: &str = "stratavore listens";
/// A connection that has brought nothing for so long is asked whether it still can.
const QUIET: Duration = Duration::from_secs(15);
const LISTENING: &str = "listening to other daemons";

/// What daemons tell each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wake {
    /// An event waits in the outbox for whoever publishes.
    pub written: bool,
    /// Events have got their positions.
    pub published: bool,
}

/// Hears what other daemons tell, on a connection of its own.
pub struct Listener {
    listener: PgListener,
    deadline: Deadline,
    own: String,
}

impl Store {
    /// Tells all other daemons of this database. Whoever is not listening just now is not told.
    pub async fn tell_others(&self, wake: Wake) -> Result<(), StoreError> {
        let Reader::Postgres(mut conn, deadline) = self.read().await? else { return Ok(()) };
        let told = sqlx::query(TELL_POSTGRES).bind(wake.text(&self.inner.voice));
        let told = deadline.keep(told.execute(&mut *conn)).await;
        told.map(drop).map_err(doing("telling other daemons"))
    }

    /// Listens from now on; `None`: there are no other daemons. To miss nothing, look after that.
    pub async fn listen(&self) -> Result<Option<Listener>, StoreError> {
        let Engine::Postgres { common, deadline, guard, .. } = &self.inner.engine else {
            return Ok(None);
        };
        let at = common.connect_options().as_ref().clone().application_name(APPLICATION);
        // One of its own for each attempt: a connection to a server that is frozen is given back to
        // its pool when it answers.
        let pool = common.options().clone().max_connections(1).min_connections(0);
        let pool = pool.max_lifetime(None).idle_timeout(None);
        let pool = pool.connect_lazy_with(at.disable_statement_logging());
        let listener = PgListener::connect_with(&pool).await;
        let mut listener =
            listener.map_err(|error| no_connection(&pool, guard, LISTENING, error))?;
        // Whoever listens has to look again then, and has to know.
        listener.eager_reconnect(false);
        deadline.keep(listener.listen(CHANNEL)).await.map_err(doing(LISTENING))?;
        let (deadline, own) = (deadline.clone(), self.inner.voice.clone());
        Ok(Some(Listener { listener, deadline, own }))
    }
}

impl Listener {
    /// Waits for what another daemon tells. May be dropped while it waits; nothing is lost by that.
    ///
    /// After an error it is of no use any more: listen anew, and look.
    pub async fn heard(&mut self) -> Result<Wake, StoreError> {
        loop {
            match tokio::time::timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(told))) => {
                    if let Some(wake) = Wake::read(told.payload(), &self.own) {
                        return Ok(wake);
                    }
                }
                Ok(Ok(None)) => {
                    let source = "the connection was lost".into();
                    return Err(StoreError::Unavailable { doing: LISTENING, source });
                }
                Ok(Err(error)) => return Err(doing(LISTENING)(error)),
                Err(_quiet) => {
                    let deadline = self.deadline.clone();
                    let asked = async { self.listener.acquire().await?.ping().await };
                    deadline.keep(asked).await.map_err(doing(LISTENING))?;
                }
            }
        }
    }
}

impl Wake {
    /// Everything that could have been told while nobody listened.
    pub const ALL: Self = Self { written: true, published: true };

    fn text(self, voice: &str) -> String {
        let mut words = vec![voice];
        words.extend(self.written.then_some("written"));
        words.extend(self.published.then_some("published"));
        words.join(" ")
    }

    /// `None`: it is our own, or of somebody who has nothing to say to this version.
    fn read(text: &str, own: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() == Some(own) {
            return None;
        }
        let mut wake = Self::default();
        for word in words {
            match word {
                "written" => wake.written = true,
                "published" => wake.published = true,
                _ => {}
            }
        }
        (wake != Self::default()).then_some(wake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_by_others_and_by_later_versions() {
        for (written, published) in [(true, false), (false, true), (true, true)] {
            let wake = Wake { written, published };
            assert_eq!(Wake::read(&wake.text("a"), "b"), Some(wake));
            assert_eq!(Wake::read(&wake.text("a"), "a"), None, "nobody tells himself");
        }
        let later = "a written and-more";
        assert_eq!(Wake::read(later, "b"), Some(Wake { written: true, published: false }));
        for nothing in ["", "a", "a other", "written"] {
            assert_eq!(Wake::read(nothing, "b"), None, "{nothing}");
        }
    }
}

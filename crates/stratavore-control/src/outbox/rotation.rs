//! A connection to the broker that is replaced while it works, since its password or certificates have
//! changed.
//!
//! The next one is made first. Then nothing more goes out over the old one, what is under way there is
//! confirmed, and the next one goes on; so nothing goes twice, and the order stays. If the next one cannot be
//! made the old one is kept: of the file and the broker, one may have been changed before the other.

use std::pin::Pin;
use std::time::Duration;

use stratavore_bus::rabbit::{Link, RabbitError};
use stratavore_runtime::{failpoint, is_off};

use super::rabbit::RabbitSettings;

/// How often it is looked whether something has changed, and how long after a failure.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(5);

type Making = Pin<Box<dyn Future<Output = Result<Link, RabbitError>> + Send>>;
type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How far the replacement of one connection is.
#[derive(Default)]
pub(super) struct Rotation {
    look_at: Duration,
    making: Option<Making>,
    made: Option<Link>,
    closing: Option<Closing>,
    problem: String,
}

impl Rotation {
    /// Begins to make another connection if this one was made with what is no longer so.
    pub(super) fn look(&mut self, link: &Link, now: Duration, settings: &RabbitSettings) {
        if now < self.look_at || self.making.is_some() || self.made.is_some() || is_off("rotation")
        {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        match (settings.broker)() {
            Ok(wanted) if link.settings().has_same_access(&wanted) => self.problem.clear(),
            Ok(wanted) => self.making = Some(Box::pin(Link::connect(wanted))),
            Err(why) => self.failed(now, &why),
        }
    }

    fn failed(&mut self, now: Duration, why: &str) {
        self.look_at = now + RETRY;
        self.problem = format!(
            "the password or the certificates have changed, and no connection can be made with them \
             ({why}); the one before is kept"
        );
    }

    /// Goes on with what is under way. May be dropped while it waits.
    pub(super) async fn goes_on(&mut self, now: impl Fn() -> Duration) {
        if let Some(making) = &mut self.making {
            let made = making.await;
            self.making = None;
            match made {
                Ok(link) => self.made = Some(link),
                Err(error) => self.failed(now(), &error.to_string()),
            }
        } else if let Some(closing) = &mut self.closing {
            closing.await;
            self.closing = None;
        } else {
            std::future::pending().await
        }
    }

    /// True while nothing more is to go out over the old connection.
    pub(super) fn is_due(&self) -> bool {
        self.made.is_some()
    }

    /// Puts the next connection in the place of the old one, over which nothing is under way any more, and
    /// which is closed.
    pub(super) fn switch(&mut self, link: &mut Link) {
        if let Some(next) = self.made.take() {
            let old = std::mem::replace(link, next);
            self.closing = Some(Box::pin(old.close()));
            self.problem.clear();
            failpoint("rabbit_rotated");
            tracing::info!("delivering to RabbitMQ over another connection, with what has changed");
        }
    }

    /// Why the old connection is still used, if it should not be.
    pub(super) fn problem(&self) -> &str {
        &self.problem
    }
}

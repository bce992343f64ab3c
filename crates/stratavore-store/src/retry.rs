//! Repeating a transaction that collided with another one.
//!
//! Only collisions (deadlock, serialization failure) are repeated: the database rolled the
//! transaction back, so nothing of it happened, and the whole body decides again on what it then
//! reads. Everything else is the caller's to decide.

use std::time::Duration;

use crate::value::random;

const ATTEMPTS: u32 = 3;

/// How often one call has been repeated.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    repeated: u32,
}

impl Patience {
    /// Waits some milliseconds, more each time and by chance, and answers whether to try again.
    pub(crate) async fn wait(&mut self) -> bool {
        self.repeated += 1;
        if self.repeated > ATTEMPTS {
            return false;
        }
        let [dice] = random();
        tokio::time::sleep(Duration::from_millis(
            u64::from(self.repeated * 5) + u64::from(dice) / 8,
        ))
        .await;
        true
    }
}

/// Runs a block that makes one transaction, again if it collided. In the block, `?` and `return`
/// leave the block.
macro_rules! retried {
    ($body:block) => {{
        let mut patience = $crate::retry::Patience::default();
        loop {
            let answer: Result<_, $crate::StoreError> = async { $body }.await;
            match answer {
                Err(error) if error.is_collision() && patience.wait().await => {}
                answer => break answer,
            }
        }
    }};
}
pub(crate) use retried;

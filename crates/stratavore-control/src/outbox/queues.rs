//! Whether somebody takes what stands in the queues that were declared at the broker.

use std::collections::HashMap;
use std::time::Duration;

use stratavore_bus::rabbit::{DEAD, Link, Queue};

use super::rabbit::RabbitSettings;

/// What was seen of them.
#[derive(Debug, Default)]
pub(super) struct Queues {
    next_look: Duration,
    /// Those that have messages and no consumer, and since when.
    unread: HashMap<String, Duration>,
    problem: String,
}

impl Queues {
    /// Looks at them if it is time to.
    pub(super) async fn look(&mut self, link: &Link, now: Duration, settings: &RabbitSettings) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + settings.queues_every;
        // What cannot be seen now is looked at later; the connection tells of itself.
        if let Ok(queues) = link.queues().await {
            self.judge(&queues, now, settings.unread_for);
        }
    }

    fn judge(&mut self, queues: &[Queue], now: Duration, unread_for: Duration) {
        self.unread
            .retain(|name, _| queues.iter().any(|queue| queue.name == *name && is_unread(queue)));
        let mut problems = Vec::new();
        for queue in queues.iter().filter(|queue| is_unread(queue)) {
            let Queue { name, messages, .. } = queue;
            if name == DEAD {
                problems.push(format!(
                    "consumers have failed on {messages} messages, which are in {name}"
                ));
                continue;
            }
            let since = *self.unread.entry(name.clone()).or_insert(now);
            if now.saturating_sub(since) >= unread_for {
                problems.push(format!("the queue {name} has {messages} messages and no consumer"));
            }
        }
        self.problem = problems.join("; ");
    }

    /// In words, or empty.
    pub(super) fn problem(&self) -> &str {
        &self.problem
    }
}

fn is_unread(queue: &Queue) -> bool {
    queue.messages > 0 && queue.consumers == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, messages: u32, consumers: u32) -> Queue {
        Queue { name: name.into(), messages, consumers }
    }

    #[test]
    fn a_queue_that_nobody_reads_is_told_after_a_while() {
        let mut seen = Queues::default();
        let long = Duration::from_secs(600);
        let at = |minutes: u64| Duration::from_secs(minutes * 60);
        let look = |seen: &mut Queues, queues: &[Queue], minutes| {
            seen.judge(queues, at(minutes), long);
            seen.problem().to_owned()
        };
        let both = [queue("a", 1, 0), queue("b", 9, 1)];
        assert_eq!(look(&mut seen, &both, 0), "");
        assert_eq!(look(&mut seen, &both, 9), "");
        assert_eq!(look(&mut seen, &both, 10), "the queue a has 1 messages and no consumer");
        // Somebody came meanwhile: it begins anew.
        assert_eq!(look(&mut seen, &[queue("a", 1, 1)], 11), "");
        assert_eq!(look(&mut seen, &both, 12), "");
        assert_eq!(look(&mut seen, &[queue("a", 0, 0)], 30), "");
        // What consumers have failed on is told at once.
        let said = look(&mut seen, &[queue(DEAD, 2, 0)], 31);
        assert!(said.contains("failed on 2 messages"), "{said}");
    }
}

//! What Stratavore promises, put to the test on the real programs: one file for each promise, named
//! as `T-…` in `RELIABILITY.md`. Small counts by default, full ones with `STRATAVORE_TEST_LONG`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agentkill;
mod auditcov;
mod auditkill;
mod before;
mod bloat;
mod cancel;
mod drain;
mod dupe;
mod dupe_hosts;
mod everything;
mod failover;
mod fence;
mod floods;
mod forgotten;
mod idem;
mod jam;
mod launch;
mod limits;
mod lost;
mod matrix;
mod mig;
mod mono;
mod mqdown;
mod notify;
mod notify_hosts;
mod outbox;
mod part;
mod peers;
mod pgdown;
mod pgkill;
mod pidreuse;
mod poison;
mod printing;
mod queues;
mod quota;
mod record;
mod rotation;
mod schema;
mod soak;
mod sockets;
mod sqlite;
mod standby;
mod surv;
mod timeshift;
mod trim;
mod upg;
mod visits;
mod wake;

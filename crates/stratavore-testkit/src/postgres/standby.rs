//! What a failover needs besides two servers: a name that leads to one of them, and a standby that has all of
//! its primary, or no more than that.

use std::path::Path;

use super::TestPostgres;
use crate::world::until;

/// The name that leads to the primary, as a proxy or the DNS would: what a daemon is told.
#[derive(Debug)]
pub struct Name {
    directory: tempfile::TempDir,
}

impl Name {
    /// # Panics
    /// If there is no place for it, as for each function here.
    pub fn of(database: &TestPostgres) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = Self { directory };
        name.leads_to(database);
        name
    }

    /// From now on it leads to this server; connections that are open stay where they are.
    pub fn leads_to(&self, database: &TestPostgres) {
        let socket = database.socket();
        let new = self.path().join("new");
        std::os::unix::fs::symlink(&socket, &new).expect("a link can be made");
        let name = socket.file_name().expect("a socket has a name");
        std::fs::rename(&new, self.path().join(name))
            .expect("it takes the place of the one before");
    }

    /// The directory of the socket, which is what a client is given.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Waits until the standby has what its primary has now.
pub fn until_caught_up(primary: &TestPostgres, standby: &TestPostgres) {
    let upto = primary.query("SELECT pg_current_wal_lsn()");
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{upto}'");
    until("the standby has everything", || match standby.query(&caught_up).as_str() {
        "t" => Ok(()),
        behind => Err(behind.to_owned()),
    });
}

/// Has the standby follow its primary no further than to here.
pub fn leave_behind(primary: &TestPostgres, standby: &TestPostgres) {
    until_caught_up(primary, standby);
    standby.query("ALTER SYSTEM SET primary_conninfo = ''");
    standby.query("SELECT pg_reload_conf()");
    let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
    until("it follows nobody", || match standby.query(receivers).as_str() {
        "0" => Ok(()),
        some => Err(some.to_owned()),
    });
}

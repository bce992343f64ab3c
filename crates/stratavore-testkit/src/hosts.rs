//! Several hosts with one database: each has a state directory and a daemon of its own.

use std::fs;

use crate::postgres::{TestPostgres, database};
use crate::world::{Ran, World};

/// Hosts of one cluster, or that are to become one.
pub struct Hosts {
    pub database: TestPostgres,
    pub worlds: Vec<World>,
}

impl Hosts {
    /// The first of them keeps the CA; none has joined. Each is told by its `labels`.
    pub fn apart(labels: &[&str]) -> Self {
        Self::with(labels, "", "")
    }

    pub fn joined(labels: &[&str]) -> Self {
        Self::joined_with_times(labels, "")
    }

    /// The same, where some times are shorter than usual.
    pub fn joined_with_times(labels: &[&str], times: &str) -> Self {
        Self::with(labels, times, "").all_joined()
    }

    /// The same, with more in the configuration of each.
    pub fn joined_with_settings(labels: &[&str], settings: &str) -> Self {
        Self::with(labels, "", settings).all_joined()
    }

    fn with(labels: &[&str], times: &str, more: &str) -> Self {
        let database = database();
        let worlds: Vec<World> = labels
            .iter()
            .map(|labels| {
                let node = format!("node:\n  listen: 127.0.0.1:0\n  {labels}\n");
                let settings = database.settings(&database.socket_dir);
                let mut world = World::with_config(&format!("{settings}\n{node}\n{more}"));
                world.set_env("STRATAVORE_TEST_TIMES", times);
                world
            })
            .collect();
        let hosts = Self { database, worlds };
        for world in &hosts.worlds {
            world.run(["daemon", "start"]).ok();
        }
        hosts.worlds[0].run(["ca", "init"]).ok();
        hosts
    }

    fn all_joined(self) -> Self {
        for world in &self.worlds[1..] {
            self.join(world, &self.token()).ok();
        }
        self
    }

    pub fn token(&self) -> String {
        self.worlds[0].run(["nodes", "token"]).ok().stdout().trim().to_owned()
    }

    /// Makes the host join with this token.
    ///
    /// # Panics
    /// If the token cannot be handed over in a file.
    pub fn join(&self, world: &World, token: &str) -> Ran {
        let file = world.path("token");
        fs::write(&file, token).expect("the home can be written to");
        let file = file.display().to_string();
        world.run(["nodes", "join", "--token-file", &file])
    }

    /// The id of a host's node.
    ///
    /// # Panics
    /// If no daemon of it has ever run.
    pub fn id(&self, which: usize) -> String {
        let file = fs::read_to_string(self.worlds[which].path("state/node"));
        file.expect("its daemon has written it down").trim().to_owned()
    }

    /// Launches at the first host, wherever it is to go.
    pub fn launch(&self, name: &str, options: &[&str], argv: &[&str]) -> Ran {
        let start = ["launch", "--project", "p", "--assistant", "generic", "--name", name];
        let all = start.iter().chain(options).chain(&["--format", "json", "--"]).chain(argv);
        self.worlds[0].run(all.copied())
    }
}

//! What every command works with: places, configuration, clock, and where to print.

use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use stratavore_config::{
    Config, Environment, Loaded, Paths, Sources, ensure_private_dir, environment,
};

use crate::clock::SystemClock;
use crate::exit::{Exit, Failure, chain};
use crate::ui::{Format, Ui};

/// Flags that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Read this configuration file instead of the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep configuration, state and sockets below this directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STRATAVORE_HOME",
        hide_env_values = true
    )]
    pub home: Option<PathBuf>,
    /// How lists and shows are printed
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = true
    )]
    #[arg(help = "How lists and shows are printed: table, json or yaml")]
    pub format: Format,
    /// Do not start a daemon where none runs
    #[arg(long, global = true)]
    pub no_start: bool,
    /// Print data and errors, and nothing else
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

pub(crate) struct Context {
    pub globals: Globals,
    pub ui: Ui,
    pub clock: SystemClock,
    pub paths: Paths,
    pub config: Config,
}

impl Context {
    /// Finds the places and reads the configuration.
    pub(crate) fn load(globals: &Globals, ui: Ui) -> Result<Self, Failure> {
        let (paths, loaded) = configuration(globals)?;
        Ok(Self {
            globals: globals.clone(),
            ui,
            clock: SystemClock::new(),
            paths,
            config: loaded.config,
        })
    }

    /// Runs what waits: for the daemon, an agent, or a person.
    pub(crate) fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::io("prepare to wait", &error))?;
        runtime.block_on(work)
    }

    /// Makes the state directory, for its owner only.
    pub(crate) fn make_state_dir(&self) -> Result<(), Failure> {
        ensure_private_dir(self.paths.state_dir()).map_err(|error| {
            Failure::new(Exit::Permission, "permission", chain(&error)).next("stratavore doctor")
        })
    }
}

/// This process's variables, with the flags that stand for one.
pub(crate) fn variables(globals: &Globals) -> Environment {
    let mut variables = environment(std::env::vars_os());
    if let Some(home) = &globals.home {
        let home = std::path::absolute(home).unwrap_or_else(|_| home.clone());
        variables.insert("STRATAVORE_HOME".into(), home.display().to_string());
    }
    variables
}

/// The places and the configuration, with where each value came from.
pub(crate) fn configuration(globals: &Globals) -> Result<(Paths, Loaded), Failure> {
    let variables = variables(globals);
    let paths = Paths::new(&variables).map_err(|error| {
        Failure::new(Exit::Config, "config", chain(&error)).next("set HOME, or give --home DIR")
    })?;
    let mut sources = Sources::new(&paths, &variables);
    if let Some(file) = &globals.config {
        sources.file = Some(file.clone());
    }
    let loaded = Config::load(&sources).map_err(|error| {
        Failure::new(Exit::Config, "config", chain(&error))
            .next("mend it, then check it: stratavore config validate")
    })?;
    Ok((paths, loaded))
}

//! The commands: one file per noun.

mod attach;
mod audit;
mod budget;
mod completions;
mod config;
mod daemon;
mod doctor;
mod event;
mod explain;
mod import;
mod inbox;
mod launch;
mod limits;
mod node;
mod notify;
mod open;
mod outbox;
mod output;
mod project;
mod queue;
mod recover;
mod resolve;
mod run;
mod runner;
mod search;
mod send;
mod session;
mod status;
mod stop;
mod upgrade;
mod usage;
mod version;
mod watch;

use std::cell::Cell;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::context::{Context, Globals};
use crate::exit::{Exit, Failure};
use crate::ui::Ui;

/// Run AI coding assistants that outlive terminals, daemons and reboots
#[derive(Debug, Parser)]
#[command(
    name = "stratavore",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    long_about = "Run AI coding assistants that outlive terminals, daemons and reboots.\n\n\
        A project is a named directory; a runner is one supervised assistant (or any program) in it. \
        `stratavore PROJECT` attaches to the project's runner, and launches one if none runs.",
    after_help = "\
Examples:
  stratavore new api                   Make the current directory the project `api`
  stratavore api                       Work in it: attach, resume or launch
  stratavore launch --assistant claude Launch one more runner, in the background
  stratavore status --watch            See what runs where
  stratavore kill --project api        Stop all of its runners

A project or runner is named by its id, the beginning of one, or its name. A project with the name
of a command is opened with `stratavore -- NAME`. Exit codes are listed in docs/errors.md."
)]
pub(crate) struct Cli {
    /// Open this project: attach to its runner, else resume or launch one
    project: Option<String>,
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(Named<project::New>),
    #[command(visible_alias = "project")]
    Projects(Named<project::Projects>),
    Launch(Named<launch::Launch>),
    Run(Named<run::Run>),
    Queue(Named<queue::Queue>),
    #[command(visible_aliases = ["runner", "ps"])]
    Runners(Named<runner::Runners>),
    Attach(Named<attach::Attach>),
    Send(Named<send::Send>),
    Inbox(Named<inbox::Inbox>),
    Approve(Named<inbox::Approve>),
    Deny(Named<inbox::Deny>),
    Explain(Named<explain::Explain>),
    Logs(Named<output::Logs>),
    Screen(Named<output::Screen>),
    #[command(visible_alias = "stop")]
    Kill(Named<stop::Kill>),
    Restart(Named<stop::Restart>),
    Pause(Named<stop::Pause>),
    Unpause(Named<stop::Unpause>),
    Recover(Named<recover::Recover>),
    Status(Named<status::Status>),
    #[command(visible_alias = "session")]
    Sessions(Named<session::Sessions>),
    Usage(Named<Box<usage::Usage>>),
    Events(Named<event::Events>),
    Search(Named<search::Search>),
    Import(Named<import::Import>),
    Outbox(Named<outbox::Outbox>),
    Notify(Named<notify::Notify>),
    #[command(visible_alias = "budgets")]
    Budget(Named<budget::Budget>),
    Audit(Named<audit::Audit>),
    #[command(visible_alias = "node")]
    Nodes(Named<node::Nodes>),
    Ca(Named<node::Ca>),
    Daemon(Named<daemon::Daemon>),
    Config(Named<config::Config>),
    Doctor(Named<doctor::Doctor>),
    Reconcile(Named<daemon::Reconcile>),
    Upgrade(Named<upgrade::Upgrade>),
    Completions(Named<completions::Completions>),
    Man(Named<completions::Man>),
    Version(Named<version::Version>),
}

thread_local! {
    /// Whether the arguments of a command are set up once it is named, or all at once.
    static ONCE_NAMED: Cell<bool> = const { Cell::new(false) };
}

/// The arguments of a command. To set up those of all commands takes a fourth of what most commands
/// take as a whole.
#[derive(Debug)]
struct Named<T>(T);

impl<T: Args> Args for Named<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        if ONCE_NAMED.get() { command.defer(T::augment_args) } else { T::augment_args(command) }
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        T::augment_args_for_update(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for Named<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches_mut(matches)
    }
}

impl Cli {
    /// What the arguments say. Who asks for help or made a mistake is answered with all commands in
    /// mind.
    pub(crate) fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        match Self::read_named(arguments) {
            Err(error) if error.kind() != ErrorKind::DisplayVersion => {
                Self::try_parse_from(arguments)
            }
            read => read,
        }
    }

    fn read_named(arguments: &[OsString]) -> Result<Self, clap::Error> {
        ONCE_NAMED.set(true);
        let command = Self::command();
        ONCE_NAMED.set(false);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }
}

/// Runs what was asked for.
pub(crate) fn run(cli: Cli, ui: Ui) -> Result<Exit, Failure> {
    let Cli { globals, project, command } = cli;
    let Some(command) = command else {
        let Some(project) = project else {
            ui.note(Cli::command().render_help().to_string());
            return Ok(Exit::Usage);
        };
        let context = Context::load(&globals, ui)?;
        return open::run(&context, &project);
    };
    if let Some(project) = project {
        let message = format!("`{project}` is no command, and what follows it is one");
        return Err(Failure::usage(message).next("open a project alone: stratavore PROJECT"));
    }
    let load = |ui| Context::load(&globals, ui);
    match command {
        // These need neither configuration nor places, or look at them themselves.
        Command::Completions(Named(args)) => completions::run(&ui, &args),
        Command::Man(Named(args)) => completions::man(&ui, &args),
        Command::Version(Named(args)) => version::run(&ui, &args),
        Command::Config(Named(args)) => config::run(&ui, &globals, &args),
        Command::Doctor(_) => doctor::run(ui, &globals),

        Command::New(Named(args)) => project::create(&load(ui)?, args),
        Command::Projects(Named(args)) => project::run(&load(ui)?, args),
        Command::Launch(Named(args)) => launch::run(&load(ui)?, args),
        Command::Queue(Named(args)) => queue::run(&load(ui)?, args),
        Command::Run(Named(args)) => run::run(load(ui)?, args),
        Command::Runners(Named(args)) => runner::run(&load(ui)?, args),
        Command::Attach(Named(args)) => attach::run(&load(ui)?, &args),
        Command::Send(Named(args)) => send::run(&load(ui)?, args),
        Command::Inbox(Named(args)) => inbox::run(&load(ui)?, args),
        Command::Approve(Named(args)) => inbox::approve(&load(ui)?, args),
        Command::Deny(Named(args)) => inbox::deny(&load(ui)?, args),
        Command::Explain(Named(args)) => explain::run(&load(ui)?, args),
        Command::Logs(Named(args)) => output::logs(&load(ui)?, args),
        Command::Screen(Named(args)) => output::screen(&load(ui)?, &args),
        Command::Kill(Named(args)) => stop::kill(&load(ui)?, args),
        Command::Restart(Named(args)) => stop::restart(&load(ui)?, args),
        Command::Pause(Named(args)) => stop::pause(&load(ui)?, args.which, true),
        Command::Unpause(Named(args)) => stop::pause(&load(ui)?, args.which, false),
        Command::Recover(Named(args)) => recover::run(&load(ui)?, args),
        Command::Status(Named(args)) => status::run(&load(ui)?, &args),
        Command::Sessions(Named(args)) => session::run(&load(ui)?, args),
        Command::Usage(Named(args)) => usage::run(&load(ui)?, *args),
        Command::Events(Named(args)) => event::run(&load(ui)?, args),
        Command::Search(Named(args)) => search::run(&load(ui)?, args),
        Command::Import(Named(args)) => import::run(&load(ui)?, args),
        Command::Outbox(Named(args)) => outbox::run(&load(ui)?, args),
        Command::Notify(Named(args)) => notify::run(&load(ui)?, args),
        Command::Budget(Named(args)) => budget::run(&load(ui)?, args),
        Command::Audit(Named(args)) => audit::run(&load(ui)?, args),
        Command::Nodes(Named(args)) => node::run(&load(ui)?, args),
        Command::Ca(Named(args)) => node::ca(&load(ui)?, args),
        Command::Daemon(Named(args)) => daemon::run(&load(ui)?, args),
        Command::Reconcile(_) => daemon::reconcile(&load(ui)?),
        Command::Upgrade(Named(args)) => upgrade::run(&load(ui)?, args),
    }
}

/// The whole command line, for completions and man pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_read_alike_with_one_command_set_up_and_with_all() {
        let lines = [
            "",
            "api",
            "--quiet api",
            "-- status",
            "status",
            "--format json status -q --no-start --home /somewhere",
            "attach one --steal --project api --config file",
            "project edit api --quota-runners 3 --format yaml",
            "projects",
            "ps --all",
            "run api --max-turns 3 --max-cost 1.50 --json -",
            "launch --count 3 --memory 2GiB --project api -- sh -c true",
            "stop --force one two",
            "daemon start -q",
            "config show --format json",
            "completions bash",
            "version",
            "--version",
            "--help",
            "launch --help",
            "projects edit --help",
            "attach",
            "api status",
            "kill --forse",
            "status --format xml",
            "projects edti",
        ];
        let mut named = 0;
        for line in lines {
            let words: Vec<OsString> = std::iter::once("stratavore")
                .chain(line.split_whitespace())
                .map(Into::into)
                .collect();
            let told = |read: Result<Cli, clap::Error>| match read {
                Ok(cli) => Ok(format!("{cli:?}")),
                Err(error) => Err((error.kind(), error.render().to_string())),
            };
            let whole = told(Cli::try_parse_from(&words));
            assert_eq!(told(Cli::read(&words)), whole, "{line}");
            named += usize::from(Cli::read_named(&words).is_ok());
            assert_eq!(Cli::read_named(&words).is_ok(), whole.is_ok(), "{line}");
        }
        assert!(named >= 14, "{named} of the lines are well formed");
    }
}

//! The commands: one file per noun.

mod attach;
mod completions;
mod config;
mod daemon;
mod doctor;
mod event;
mod launch;
mod limits;
mod open;
mod output;
mod project;
mod recover;
mod resolve;
mod runner;
mod send;
mod status;
mod stop;
mod upgrade;
mod version;
mod watch;

use clap::{CommandFactory, Parser, Subcommand};

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
    New(project::New),
    #[command(visible_alias = "project")]
    Projects(project::Projects),
    Launch(launch::Launch),
    #[command(visible_aliases = ["runner", "ps"])]
    Runners(runner::Runners),
    Attach(attach::Attach),
    Send(send::Send),
    Logs(output::Logs),
    Screen(output::Screen),
    #[command(visible_alias = "stop")]
    Kill(stop::Kill),
    Restart(stop::Restart),
    Pause(stop::Pause),
    Unpause(stop::Unpause),
    Recover(recover::Recover),
    Status(status::Status),
    Events(event::Events),
    Daemon(daemon::Daemon),
    Config(config::Config),
    Doctor(doctor::Doctor),
    Reconcile(daemon::Reconcile),
    Upgrade(upgrade::Upgrade),
    Completions(completions::Completions),
    Man(completions::Man),
    Version(version::Version),
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
        Command::Completions(args) => completions::run(&ui, &args),
        Command::Man(args) => completions::man(&ui, &args),
        Command::Version(args) => version::run(&ui, &args),
        Command::Config(args) => config::run(&ui, &globals, &args),
        Command::Doctor(_) => doctor::run(ui, &globals),

        Command::New(args) => project::create(&load(ui)?, args),
        Command::Projects(args) => project::run(&load(ui)?, args),
        Command::Launch(args) => launch::run(&load(ui)?, args),
        Command::Runners(args) => runner::run(&load(ui)?, args),
        Command::Attach(args) => attach::run(&load(ui)?, &args),
        Command::Send(args) => send::run(&load(ui)?, &args),
        Command::Logs(args) => output::logs(&load(ui)?, args),
        Command::Screen(args) => output::screen(&load(ui)?, &args),
        Command::Kill(args) => stop::kill(&load(ui)?, args),
        Command::Restart(args) => stop::restart(&load(ui)?, args),
        Command::Pause(args) => stop::pause(&load(ui)?, args.which, true),
        Command::Unpause(args) => stop::pause(&load(ui)?, args.which, false),
        Command::Recover(args) => recover::run(&load(ui)?, args),
        Command::Status(args) => status::run(&load(ui)?, &args),
        Command::Events(args) => event::run(&load(ui)?, args),
        Command::Daemon(args) => daemon::run(&load(ui)?, args),
        Command::Reconcile(_) => daemon::reconcile(&load(ui)?),
        Command::Upgrade(args) => upgrade::run(&load(ui)?, args),
    }
}

/// The whole command line, for completions and man pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

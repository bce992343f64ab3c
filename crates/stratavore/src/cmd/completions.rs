//! `stratavore completions` and the hidden `stratavore man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::ui::Ui;

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stratavore completions bash > ~/.local/share/bash-completion/completions/stratavore
  stratavore completions zsh  > ~/.zfunc/_stratavore
  stratavore completions fish > ~/.config/fish/completions/stratavore.fish")]
pub(crate) struct Completions {
    shell: Shell,
}

/// Write the manual pages
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Man {
    /// A directory that exists
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(ui: &Ui, args: &Completions) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "stratavore", &mut text);
    ui.raw(&text)?;
    Ok(Exit::Ok)
}

pub(crate) fn man(ui: &Ui, args: &Man) -> Result<Exit, Failure> {
    clap_mangen::generate_to(super::command(), &args.output).map_err(|error| {
        Failure::io(format_args!("write manual pages to {}", args.output.display()), &error)
    })?;
    ui.note(format!("wrote the manual pages to {}", args.output.display()));
    Ok(Exit::Ok)
}

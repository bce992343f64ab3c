//! `stratavore send`: types into a runner.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use stratavore_proto::v1::{SendInput, from_agent_socket, socket_hello};

use super::resolve;
use crate::api::Api;
use crate::attach::link::ANSWER;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Type into a runner, without attaching
#[derive(Debug, Args)]
#[command(after_help = "\
Enter is pressed after the text unless --no-enter is given. One line end at the end of a file or of
the standard input is dropped when enter is pressed. Several lines are best sent with --paste, which
programs that know pasting take as one piece.

Examples:
  stratavore send claude \"run the tests, please\"
  stratavore send claude --file prompt.md --paste
  git diff | stratavore send claude --stdin --paste
  stratavore send shell-1 --no-enter \"$(printf '\\003')\"    Ctrl-C")]
pub(crate) struct Send {
    /// The runner, by id, the beginning of one, or name
    runner: String,
    /// What to type; several words are joined by blanks
    #[arg(conflicts_with_all = ["file", "stdin"], required_unless_present_any = ["file", "stdin"])]
    text: Vec<String>,
    /// Type what is in this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Type what comes from standard input
    #[arg(long, conflicts_with = "file")]
    stdin: bool,
    /// Do not press enter afterwards
    #[arg(long)]
    no_enter: bool,
    /// Send it as a paste, where the program has asked for that
    #[arg(long)]
    paste: bool,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// The most that is typed at once, in bytes.
const SEND_MAX: usize = 1 << 20;

/// How long the daemon may take to say whether a runner is paused.
const PAUSED: Duration = Duration::from_secs(1);

pub(crate) fn run(context: &Context, args: &Send) -> Result<Exit, Failure> {
    let enter = !args.no_enter;
    let data = what_to_type(args, enter)?;
    if data.is_empty() && !enter {
        return Err(Failure::usage("there is nothing to type").next("stratavore send --help"));
    }
    context.block_on(async {
        let target = resolve::target(context, &args.runner, args.project.as_deref()).await?;
        let name = target.name().to_owned();
        let bytes = data.len();
        let wish =
            socket_hello::Wish::Send(SendInput { data: data.into(), paste: args.paste, enter });
        let exchange = async {
            let mut link = target.connect(wish).await?;
            // Not sent again if the connection is lost: it may have been typed.
            while !matches!(link.next().await?, from_agent_socket::Kind::Done(_)) {}
            Ok(())
        };
        match tokio::time::timeout(ANSWER, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(crate::attach::link::LinkError::into_failure(error, &name));
            }
            Err(_) => {
                let message = format!(
                    "runner {name} did not take what was typed within {} s",
                    ANSWER.as_secs()
                );
                return Err(Failure::new(Exit::Timeout, "timeout", message)
                    .next("see whether it reads its terminal: stratavore screen"));
            }
        }
        context.ui.note(format!("typed {bytes} bytes into {name}"));
        if is_paused(context, &target.id()).await {
            context.ui.warn(format!(
                "{name} is paused and reads it once it goes on: stratavore unpause {name}"
            ));
        }
        Ok(Exit::Ok)
    })
}

/// Whether the daemon says so; without one nobody knows.
async fn is_paused(context: &Context, runner: &str) -> bool {
    let asked = async {
        let mut api = Api::connect_if_running(context).await.ok()??;
        resolve::get(&mut api, runner).await.ok()
    };
    let answer = tokio::time::timeout(PAUSED, asked).await;
    answer.ok().flatten().is_some_and(|runner| runner.desired == "paused")
}

fn what_to_type(args: &Send, enter: bool) -> Result<Vec<u8>, Failure> {
    let mut data = match &args.file {
        Some(path) => {
            let open = std::fs::File::open(path);
            read(open.map_err(|error| unreadable(path, &error))?)
                .map_err(|error| unreadable(path, &error))?
        }
        None if args.stdin => {
            read(std::io::stdin()).map_err(|error| Failure::io("read standard input", &error))?
        }
        None => return limited(args.text.join(" ").into_bytes()),
    };
    if enter && data.ends_with(b"\n") {
        data.pop();
        if data.ends_with(b"\r") {
            data.pop();
        }
    }
    limited(data)
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    from.take(SEND_MAX as u64 + 3).read_to_end(&mut data)?;
    Ok(data)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format_args!("read {}", path.display()), error)
}

fn limited(data: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if data.len() > SEND_MAX {
        return Err(Failure::usage(format!("more than {SEND_MAX} bytes cannot be typed at once"))
            .next("put it into a file of the project, and tell the assistant to read that"));
    }
    Ok(data)
}

//! `stratavore send`: types into a runner.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{GetRunner, PromptRunner, SendInput, from_agent_socket, socket_hello};

use super::resolve;
use crate::api::Api;
use crate::attach::link::ANSWER;
use crate::clock::fresh_key;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::local::{self, Found, LocalRunner};
use crate::units::parse_duration;
use crate::view::PromptView;

/// Send a prompt to an assistant, or type into any runner, without attaching
#[derive(Debug, Args)]
#[command(after_help = "\
To an assistant that tells what it does, it is a prompt: nothing is typed while the assistant works or
asks something, and it counts as delivered once the assistant says that it has it. The daemon, which
knows what the assistant does, is started if none runs. Into any other runner, and with --raw, --paste or --no-enter, it is typed as it is, and enter is pressed after it unless
--no-enter is given. One line end at the end of a file or of the standard input is dropped when enter is
pressed. Several lines are best typed with --paste, which programs that know pasting take as one piece.

Examples:
  stratavore send claude \"run the tests, please\"
  stratavore send claude --file prompt.md --wait 10m
  git diff | stratavore send shell-1 --stdin --paste
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
    /// Type it as it is, without a proof that it was taken
    #[arg(long, conflicts_with_all = ["wait", "into_turn"])]
    raw: bool,
    /// Wait so long for the assistant to be done with what it does
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["no_enter", "paste"])]
    wait: Option<Duration>,
    /// Type it although the assistant works
    #[arg(long, conflicts_with_all = ["no_enter", "paste"])]
    into_turn: bool,
    /// Narrows a name to one project
    #[arg(long, short, value_name = "PROJECT")]
    project: Option<String>,
}

/// The most that is typed at once, in bytes.
const SEND_MAX: usize = 1 << 20;

/// How long the daemon may take to say whether a runner is paused.
const PAUSED: Duration = Duration::from_secs(1);

/// How long an assistant may take to say that it has a prompt, enter keys and all.
const TAKEN: Duration = Duration::from_secs(60);

pub(crate) fn run(context: &Context, args: Send) -> Result<Exit, Failure> {
    let enter = !args.no_enter;
    let data = what_to_type(&args, enter)?;
    if data.is_empty() && !enter {
        return Err(Failure::usage("there is nothing to type").next("stratavore send --help"));
    }
    context.block_on(async {
        let is_prompt = enter && !args.raw && !args.paste && !data.is_empty();
        if is_prompt && let Some(exit) = prompt(context, &args, &data).await? {
            return Ok(exit);
        }
        let target = resolve::target(context, &args.runner, args.project.as_deref()).await?;
        let name = target.name().to_owned();
        let bytes = data.len();
        let input =
            SendInput { data: data.into(), paste: args.paste, enter, ..SendInput::default() };
        let wish = socket_hello::Wish::Send(input);
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

/// Delivers it as a prompt. `None`: the runner is not one that tells whether it has a prompt.
async fn prompt(context: &Context, args: &Send, data: &[u8]) -> Result<Option<Exit>, Failure> {
    let insists = args.wait.is_some() || args.into_turn;
    let here = runner_here(context, args);
    if !insists && here.as_ref().is_some_and(tells_nothing) {
        return Ok(None);
    }
    let project = args.project.clone().unwrap_or_default();
    let get = GetRunner { runner: args.runner.clone(), project };
    let asked = async {
        let mut api = Api::connect(context).await?;
        let runner = api.call(async |client| client.runners().get(get.clone()).await).await?;
        Ok::<_, Failure>((api, runner))
    };
    let (mut api, runner) = match asked.await {
        Ok(asked) => asked,
        // Only the daemon knows whether it works or asks something: typed blindly, this could answer it.
        Err(failure) if here.is_some() => {
            let raw = "or type it whatever the assistant does: stratavore send --raw";
            let next = [failure.next.as_str(), raw].join("; ");
            return Err(failure.next(next.trim_start_matches("; ")));
        }
        // It cannot be typed either; the way to it says best why.
        Err(failure) => {
            let way = resolve::target(context, &args.runner, args.project.as_deref()).await;
            return Err(way.err().unwrap_or(failure));
        }
    };
    if !insists && !runner.tells_of_prompts {
        return Ok(None);
    }
    let Ok(text) = String::from_utf8(data.to_vec()) else {
        return Err(Failure::usage("a prompt has to be UTF-8 text")
            .next("type it as it is: stratavore send --raw"));
    };
    let wait = args.wait.unwrap_or_default();
    let request = PromptRunner {
        idempotency_key: fresh_key(),
        runner: runner.id.clone(),
        project: String::new(),
        text,
        into_turn: args.into_turn,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    };
    let asked = async |client: Client| client.inbox().prompt(request.clone()).await;
    let prompt = api.call_within(wait + TAKEN, asked).await?;
    let name = runner.name;
    match prompt.state.as_str() {
        "taken" => {
            context.ui.show(&PromptView::from(&prompt), || {
                context.ui.line(format!("delivered to {name}"))
            })?;
            Ok(Some(Exit::Ok))
        }
        "failed" => Err(Failure::new(Exit::Conflict, "not_delivered", prompt.why)
            .next(format!("see how it is: stratavore explain {name}"))),
        _ => Err(Failure::new(
            Exit::Timeout,
            "not_confirmed",
            format!("it was typed into {name}, which has not said that it has it"),
        )
        .next(format!("look at its screen: stratavore screen {name}"))),
    }
}

/// The live runner of this host that is meant, if it is one.
fn runner_here(context: &Context, args: &Send) -> Option<LocalRunner> {
    let runners = context.paths.runners_dir();
    match local::find(&runners, &args.runner, args.project.as_deref()) {
        Ok(Found::One(runner)) => Some(runner),
        Ok(Found::Several(_) | Found::None(_)) | Err(_) => None,
    }
}

/// True if nothing is known of what the runner does, so that there is nothing to ask the daemon.
fn tells_nothing(runner: &LocalRunner) -> bool {
    let spec = runner.dir.spec().ok().flatten();
    spec.is_some_and(|spec| {
        spec.observe.is_none() || spec.command.bare || spec.command.headless.is_some()
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

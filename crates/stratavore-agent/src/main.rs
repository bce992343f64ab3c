//! `stratavore-agent`: reads its arguments; everything else is in the library.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use stratavore_agent::{STATE_FORM, hook, permission};
use stratavore_proto::version;

const USAGE: &str = "The supervisor of one runner. Daemons start it; people do not have to.

Usage: stratavore-agent run --dir DIR --epoch N     (reads what a daemon hands over)
       stratavore-agent resume --dir DIR --state FD (after an upgrade in place)
       stratavore-agent hook --dir DIR [--wait] [--part NAME]
                                                    (what an assistant calls to tell of itself)
       stratavore-agent hook --dir DIR --mcp        (the tool that an assistant asks for permission)
       stratavore-agent --version
";

enum Wanted {
    Run { dir: PathBuf, epoch: i64 },
    Resume { dir: PathBuf, state: i32 },
    Hook(hook::Call),
    Permission(PathBuf),
    Version,
    Help,
}

fn main() -> ExitCode {
    let answer = match read(std::env::args_os().skip(1).collect()) {
        Some(Wanted::Run { dir, epoch }) => stratavore_agent::run(dir, epoch),
        Some(Wanted::Resume { dir, state }) => stratavore_agent::resume(dir, state),
        Some(Wanted::Hook(call)) => {
            hook::call(&call);
            Ok(())
        }
        Some(Wanted::Permission(dir)) => {
            permission::serve(&dir);
            Ok(())
        }
        Some(Wanted::Version) => {
            return say(&format!("stratavore-agent {}\n{STATE_FORM}\n", version::VERSION));
        }
        Some(Wanted::Help) => return say(USAGE),
        None => {
            let _said = std::io::stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _said =
                std::io::stderr().write_all(format!("stratavore-agent: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// `None`: these are no arguments of ours.
fn read(args: Vec<OsString>) -> Option<Wanted> {
    let mut args = args.into_iter();
    let command = args.next()?;
    let (mut dir, mut epoch, mut state) = (None, None, None);
    let (mut wait, mut mcp, mut body, mut part) = (false, false, None, None);
    while let Some(flag) = args.next() {
        match flag.to_str()? {
            "--dir" => dir = Some(PathBuf::from(args.next()?)),
            "--epoch" => epoch = Some(args.next()?.to_str()?.parse().ok()?),
            "--wait" => wait = true,
            "--mcp" => mcp = true,
            "--body" => body = Some(args.next()?.into_string().ok()?),
            "--part" => part = Some(hook::part_name(args.next()?.to_str()?)?),
            "--state" => state = Some(args.next()?.to_str()?.parse().ok()?),
            _ => return None,
        }
    }
    match command.to_str()? {
        "run" => Some(Wanted::Run { dir: dir?, epoch: epoch? }),
        "resume" => Some(Wanted::Resume { dir: dir?, state: state? }),
        "hook" if mcp => Some(Wanted::Permission(dir?)),
        "hook" => Some(Wanted::Hook(hook::Call { dir: dir?, wait, body, part })),
        "--version" | "-V" => Some(Wanted::Version),
        "--help" | "-h" | "help" => Some(Wanted::Help),
        _ => None,
    }
}

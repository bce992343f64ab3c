//! The hook that an assistant calls: `stratavore-agent hook --dir DIR`.
//!
//! It hands the JSON that it is given to the runner's agent and ends with 0, whatever happens: an
//! assistant must never be disturbed by being watched. With `--wait` it waits for an answer from
//! elsewhere and prints it; it waits until it is killed, for the assistant asks on its screen as well.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use stratavore_proto::frame::FrameCodec;
use stratavore_proto::runner_dir::RunnerDir;
use stratavore_proto::v1::{
    FromAgentSocket, Hook, SocketHello, ToAgentSocket, from_agent_socket, socket_hello,
    to_agent_socket,
};
use stratavore_proto::{agent_protocol, unix};
use tokio_util::codec::Framed;

use crate::entropy;

/// The most that an assistant may hand to its hook.
const BODY_MAX: u64 = 32 << 20;
/// The longest text within it that is kept; what is longer stands in the transcript.
const TEXT_MAX: usize = 4096;
/// The most that is kept of all of it.
const KEPT_MAX: usize = 256 << 10;
/// How often the agent is tried when it cannot be reached, and how long each wait is: it is away for
/// moments, while it is upgraded.
const TRIES: u32 = 40;
const AGAIN: Duration = Duration::from_millis(50);

/// One call of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The runner's directory.
    pub dir: PathBuf,
    /// Wait for an answer, and print it.
    pub wait: bool,
    /// The JSON, if not on the standard input.
    pub body: Option<String>,
    /// Only this field is of interest, and only when it has changed: what is called many times a minute
    /// tells little.
    pub part: Option<String>,
}

/// A field that can be named in [`Call::part`]: it is a part of a file's name as well.
pub fn part_name(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Hands the call over. What goes wrong is told to nobody: it would be shown to the assistant's user.
pub fn call(call: &Call) {
    let Ok(mut body) = read_body(call.body.clone()) else { return };
    let known = call.part.as_ref().map(|part| call.dir.join(format!("hook-{part}.json")));
    if let Some(part) = &call.part {
        let Some(of_it) = part_of(&body, part) else { return };
        body = of_it;
    }
    if known.as_ref().is_some_and(|known| std::fs::read_to_string(known).is_ok_and(|k| k == body)) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let Ok(id) = entropy::bytes::<16>() else { return };
    let id = if call.wait { entropy::hex(&id) } else { String::new() };
    let Some(answer) = runtime.block_on(hand_over(&call.dir, &id, &body)) else { return };
    if !answer.is_empty() {
        let _printed = io::stdout().write_all(answer.as_bytes());
    }
    if let Some(known) = known {
        // Half of it is not what comes next, and is written anew.
        let _kept = std::fs::write(known, &body);
    }
}

/// The body with this field alone; `None`: it has none.
fn part_of(body: &str, part: &str) -> Option<String> {
    let mut body: Value = serde_json::from_str(body).ok()?;
    let field = body.get_mut(part).map(Value::take).filter(|field| !field.is_null())?;
    Some(serde_json::json!({ part: field }).to_string())
}

fn read_body(given: Option<String>) -> io::Result<String> {
    let text = match given {
        Some(text) => text,
        None => {
            let mut text = String::new();
            io::stdin().lock().take(BODY_MAX).read_to_string(&mut text)?;
            text
        }
    };
    kept(serde_json::from_str(&text).map_err(io::Error::other)?)
}

/// What is kept of a body, as text.
pub(crate) fn kept(mut body: Value) -> io::Result<String> {
    for longest in [TEXT_MAX, TEXT_MAX / 16, 32] {
        cut(&mut body, longest);
        let text = body.to_string();
        if text.len() <= KEPT_MAX {
            return Ok(text);
        }
    }
    Err(io::Error::other("too much of it"))
}

/// Cuts the texts in it that are longer than `longest` bytes.
fn cut(value: &mut Value, longest: usize) {
    match value {
        Value::String(text) if text.len() > longest => {
            text.truncate(text.floor_char_boundary(longest));
            text.push('…');
        }
        Value::Array(items) => items.iter_mut().for_each(|item| cut(item, longest)),
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, longest)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Gives the body to the agent, and to the next one if that is replaced while we wait.
pub(crate) async fn hand_over(dir: &Path, id: &str, body: &str) -> Option<String> {
    let mut tries = 0;
    loop {
        match exchange(dir, id, body).await {
            Ok(answer) => return Some(answer),
            Err(Ended::Refused) => return None,
            Err(Ended::Lost { welcomed }) => {
                tries = if welcomed { 1 } else { tries + 1 };
                if tries > TRIES {
                    return None;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

enum Ended {
    Refused,
    /// The agent is away.
    Lost {
        welcomed: bool,
    },
}

async fn exchange(dir: &Path, id: &str, body: &str) -> Result<String, Ended> {
    let lost = |welcomed| Ended::Lost { welcomed };
    let socket = RunnerDir::at(dir.into()).socket();
    let stream = unix::connect(&socket).map_err(|_| lost(false))?;
    let mut stream = Framed::new(stream, FrameCodec::<FromAgentSocket, ToAgentSocket>::default());
    let (version_min, version_max) = agent_protocol();
    let hook = Hook { call: id.into(), body: body.into() };
    let hello = SocketHello {
        version_min,
        version_max,
        who: "hook".into(),
        wish: Some(socket_hello::Wish::Hook(hook)),
    };
    let hello = ToAgentSocket { kind: Some(to_agent_socket::Kind::Hello(hello)) };
    stream.send(hello).await.map_err(|_| lost(false))?;
    let (mut welcomed, mut answer) = (false, String::new());
    loop {
        use from_agent_socket::Kind;
        let frame = stream.next().await.ok_or(lost(welcomed))?.map_err(|_| lost(welcomed))?;
        match frame.kind {
            Some(Kind::Welcome(_)) => welcomed = true,
            Some(Kind::HookAnswer(given)) => answer = given.output,
            Some(Kind::Done(_)) => return Ok(answer),
            Some(Kind::Refused(_)) => return Err(Ended::Refused),
            Some(
                Kind::Screen(_)
                | Kind::Output(_)
                | Kind::Lagged(_)
                | Kind::Writer(_)
                | Kind::Size(_)
                | Kind::Ended(_),
            )
            | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_the_rest_stays() {
        let long = "ä".repeat(3000);
        let text = serde_json::json!({ "a": long, "b": [{ "c": "short" }], "n": 7 }).to_string();
        let kept: Value = serde_json::from_str(&read_body(Some(text)).unwrap()).unwrap();
        assert_eq!(kept["a"].as_str().unwrap(), format!("{}…", "ä".repeat(2048)));
        assert_eq!((kept["b"][0]["c"].as_str(), kept["n"].as_u64()), (Some("short"), Some(7)));

        let many: Vec<String> = (0..1000).map(|_| "x".repeat(2000)).collect();
        let kept = read_body(Some(serde_json::json!(many).to_string())).unwrap();
        assert!(kept.len() <= KEPT_MAX, "{}", kept.len());
        assert!(read_body(Some("no json".into())).is_err());
    }
}

//! How each assistant wants its own tools to be called.

use std::path::Path;

use serde_json::{Value, json};

use super::script::Tool;
use super::{Asked, Offered};

/// A call in the terms of the request that it answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) arguments: Arguments,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arguments {
    Json(Value),
    /// For a tool that takes a text as it is.
    Free(String),
}

const SHELLS: [&str; 6] =
    ["Bash", "exec_command", "shell_command", "shell", "bash", "run_shell_command"];
const WRITERS: [&str; 3] = ["Write", "write", "write_file"];
const AGENTS: [&str; 5] = ["Agent", "Task", "task", "spawn_agent", "invoke_agent"];

/// The call of the tool on offer that does it.
///
/// # Errors
/// Names what was wanted and what is on offer.
pub(super) fn call(tool: &Tool, asked: &Asked) -> Result<Call, String> {
    let one_of = |names: &[&str]| {
        let found = asked.tools.iter().find(|offered| names.contains(&offered.name.as_str()));
        found.ok_or_else(|| {
            let on_offer: Vec<&str> = asked.tools.iter().map(|tool| tool.name.as_str()).collect();
            format!("the script calls one of {names:?}; on offer are {on_offer:?}")
        })
    };
    match tool {
        Tool::Named { name, arguments } => {
            let offered = asked.tools.iter().find(|offered| offered.name == *name);
            Ok(Call {
                name: name.clone(),
                namespace: offered.and_then(|offered| offered.namespace.clone()),
                arguments: Arguments::Json(arguments.clone()),
            })
        }
        Tool::Shell(command) => Ok(shell(one_of(&SHELLS)?, command)),
        Tool::Escalated(command) => Ok(escalated(one_of(&SHELLS)?, command)),
        Tool::Write { path, text } => match one_of(&WRITERS) {
            Ok(offered) => Ok(write(offered, path, text)),
            // Codex writes by patches, or where its model has none of those, in its shell.
            Err(_) => match patch(asked, path, text) {
                Some(call) => Ok(call),
                None => Ok(shell(one_of(&SHELLS)?, &writing(path, text))),
            },
        },
        Tool::Subagent { prompt } => Ok(agent(one_of(&AGENTS)?, prompt)),
    }
}

fn has(offered: &Offered, property: &str) -> bool {
    !offered.schema["properties"][property].is_null()
}

fn of(offered: &Offered, arguments: Arguments) -> Call {
    Call { name: offered.name.clone(), namespace: offered.namespace.clone(), arguments }
}

fn json_call(offered: &Offered, mut arguments: Value) -> Call {
    // A description is wanted by some, and unknown to others.
    if has(offered, "description") {
        arguments["description"] = "as the script says".into();
    }
    of(offered, Arguments::Json(arguments))
}

fn shell(offered: &Offered, command: &str) -> Call {
    let arguments = match &offered.schema["properties"] {
        properties if !properties["cmd"].is_null() => json!({ "cmd": command }),
        // The oldest form takes the words of a command line.
        properties if properties["command"]["type"] == "array" => {
            json!({ "command": ["bash", "-lc", command] })
        }
        _ => json!({ "command": command }),
    };
    json_call(offered, arguments)
}

fn escalated(offered: &Offered, command: &str) -> Call {
    let mut call = shell(offered, command);
    if let Arguments::Json(arguments) = &mut call.arguments
        && has(offered, "sandbox_permissions")
    {
        arguments["sandbox_permissions"] = "require_escalated".into();
        arguments["justification"] = "May it, as the script says?".into();
    }
    call
}

fn write(offered: &Offered, path: &Path, text: &str) -> Call {
    let name = if has(offered, "filePath") { "filePath" } else { "file_path" };
    json_call(offered, json!({ name: path, "content": text }))
}

/// A command that writes it.
fn writing(path: &Path, text: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    format!("printf %s {} > {}", quoted(text), quoted(&path.to_string_lossy()))
}

fn patch(asked: &Asked, path: &Path, text: &str) -> Option<Call> {
    let offered = asked.tools.iter().find(|offered| offered.name == "apply_patch")?;
    let lines: String = text.lines().map(|line| format!("+{line}\n")).collect();
    let path = path.display();
    let patch = format!("*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\n");
    let arguments = if offered.schema.is_null() {
        Arguments::Free(patch)
    } else {
        Arguments::Json(json!({ "input": patch }))
    };
    Some(of(offered, arguments))
}

fn agent(offered: &Offered, prompt: &str) -> Call {
    let mut arguments = json!({});
    for (property, value) in [
        ("prompt", prompt),
        ("message", prompt),
        ("task_name", "scripted"),
        ("agent_name", "generalist"),
        ("subagent_type", if offered.name == "task" { "general" } else { "general-purpose" }),
    ] {
        if has(offered, property) {
            arguments[property] = value.into();
        }
    }
    json_call(offered, arguments)
}

//! How opencode is started, and what a run of it prints.

use serde_json::{Value, json};
use stratavore_assistants::adapter::{Conversation, Outcome, Step};

use super::SESSION;
use crate::sample::*;

#[test]
fn runs_are_started_as_opencode_wants_it() {
    let opencode = adapter("opencode");
    let asked = Asked::new(&["opencode", "-m", "fake/m1"]);
    assert_eq!(asked.fresh(opencode).argv, ["opencode", "-m", "fake/m1"]);
    assert_eq!(asked.fresh(opencode).files, []);
    assert_eq!(
        asked.resumed(opencode, "ses_1").argv,
        ["opencode", "--session", "ses_1", "-m", "fake/m1"]
    );
    let asked =
        Asked::new(&["opencode", "-c", "--prompt", "old", "-m", "x"]).prompt("-new \"one\"");
    let fork = Conversation::Fork { session: "ses_1", preset: PRESET };
    let started = asked.start(opencode, fork).unwrap();
    let expected = ["opencode", "--session", "ses_1", "--fork", "--prompt=-new \"one\"", "-m", "x"];
    assert_eq!((started.argv, started.session), (expected.map(String::from).to_vec(), None));

    // Another command, whose conversations are not ours to choose, is observed all the same.
    let asked = Asked::new(&["opencode", "--print-logs", "serve", "-c"]).observed("/runs/r1");
    let started = asked.resumed(opencode, "ses_1");
    assert_eq!((started.argv.len(), started.session, started.files.len()), (4, None, 1));

    let asked = Asked::new(&["opencode", "-m", "x"]).headless().prompt("ignored");
    assert_eq!(
        asked.fresh(opencode).argv,
        ["opencode", "run", "--format", "json", "--title=a \"title\"", "-m", "x"]
    );
    let resumed = asked.resumed(opencode, "ses_1");
    assert_eq!(
        resumed.argv,
        ["opencode", "run", "--format", "json", "--session", "ses_1", "-m", "x"]
    );
    assert_eq!(resumed.session.as_deref(), Some("ses_1"));
}

#[test]
fn the_plugin_is_given_by_a_variable_that_is_free() {
    let opencode = adapter("opencode");
    let (content, path) = ("OPENCODE_CONFIG_CONTENT", "OPENCODE_CONFIG");
    let mut asked = Asked::new(&["opencode"]).observed("/home/dev/my runs/ü");
    let started = asked.fresh(opencode);
    let config = json!({
        "plugin": ["file:///home/dev/my%20runs/%C3%BC/stratavore-opencode.js"],
        "agent": {"title": {"disable": true}},
    });
    assert_eq!(serde_json::from_str::<Value>(&started.env[content]).unwrap(), config);
    assert_eq!((started.env.len(), started.watch_title), (1, true));

    let (name, source) = &started.files[0];
    assert_eq!((name.as_str(), started.files.len()), ("stratavore-opencode.js", 1));
    assert!(source.contains(r#"const HOOK = ["/opt/stratavore-agent","hook"]"#), "{source}");
    assert!(source.contains(r#"const TITLE = "a \"title\"""#));
    assert!(source.contains(r#"const FORK_OF = """#) && !source.contains("{stratavore:"));
    assert!(source.contains(&format!("const VARIABLE = \"{content}\"")));

    asked.env.insert(content.into(), "{// mine\n}".into());
    let started = asked.fresh(opencode);
    assert_eq!(started.env[path], "/home/dev/my runs/ü/opencode.json");
    assert_eq!((started.env.len(), started.files[1].0.as_str()), (1, "opencode.json"));
    assert_eq!(serde_json::from_str::<Value>(&started.files[1].1).unwrap(), config);
    assert!(started.files[0].1.contains(&format!("const VARIABLE = \"{path}\"")));

    asked.env.insert(path.into(), "/home/dev/mine.json".into());
    let started = asked.fresh(opencode);
    assert!(started.env.is_empty() && started.files.is_empty());
}

#[test]
fn the_output_of_a_run_tells_its_steps_and_its_end() {
    let opencode = adapter("opencode");
    let output = sample("opencode/run_json_tools.jsonl");
    let done = Outcome::Done { text: "Hello from the fake model. Request 23.".into() };
    assert_eq!(opencode.outcome(&output, Some(0)), done);
    let steps: Vec<_> = output.lines().flat_map(|line| opencode.step(line)).collect();
    assert_eq!(steps[0], Step::Session { session: "ses_e037ba0a5ffeem1nPLOpsLQ0kg".into() });
    assert_eq!(steps[1], Step::Tool { tool: "bash".into(), text: "echo hi-oc".into() });
    assert_eq!(steps[2], Step::ToolResult { text: "hi-oc\n".into() });

    // Every beginning of it is no end, though a signal makes the exit code 0.
    let lines: Vec<_> = output.lines().collect();
    for end in 1..lines.len() {
        assert_eq!(opencode.outcome(&lines[..end].join("\n"), Some(0)), Outcome::Cut, "{end}");
    }
    // What nobody was there to permit.
    let refused = "The user rejected permission to use this specific tool call.";
    let state = json!({"status": "error", "input": {"command": "ls"}, "error": refused});
    let part = json!({"tool": "bash", "state": state});
    let lines = [
        json!({"type": "step_start", "sessionID": SESSION}),
        json!({"type": "tool_use", "part": part}),
        json!({"type": "step_finish", "part": {"reason": "tool-calls"}}),
    ];
    let printed = lines.map(|line| line.to_string()).join("\n");
    assert_eq!(opencode.outcome(&printed, Some(0)), Outcome::Failed { why: refused.into() });
    let went_on = format!("{printed}\n{output}");
    assert!(matches!(opencode.outcome(&went_on, Some(0)), Outcome::Done { .. }));

    let error = |data: Value| {
        let error = json!({"type": "error", "error": {"name": "APIError", "data": data}});
        opencode.outcome(&error.to_string(), Some(1))
    };
    let why = "APIError: scripted".to_owned();
    let failed = error(json!({"message": "scripted", "statusCode": 400}));
    assert_eq!(failed, Outcome::Failed { why: why.clone() });
    let limited = error(json!({"message": "scripted", "statusCode": 429}));
    assert_eq!(limited, Outcome::RateLimited { why });
    assert_eq!(opencode.outcome("", Some(1)), Outcome::Failed { why: "exit 1".into() });
    assert_eq!(opencode.outcome("", None), Outcome::Cut);
}

#[test]
fn exports_are_had_from_its_own_program() {
    let export = adapter("opencode").export().unwrap();
    assert_eq!(export.list[..2], ["--pure", "db"]);
    assert_eq!(
        (export.listed)("[{\"id\": \"ses_1\"}, {}, {\"id\": \"ses_2\"}]"),
        ["ses_1", "ses_2"]
    );
    assert!((export.listed)("nothing").is_empty());
    assert_eq!(export.one, ["--pure", "export"]);
}

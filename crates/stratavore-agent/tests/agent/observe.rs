//! What an assistant tells of itself: hooks, telemetry and titles, taken down by the agent.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde_json::{Value, json};
use stratavore_agent::signal_log;
use stratavore_core::runner::EnvValue;
use stratavore_core::signal::{Signal, What};
use stratavore_proto::runner_dir::{OTLP, Observe};
use stratavore_proto::v1::{AnswerHook, Hook, from_agent_socket::Kind, socket_hello::Wish};

use crate::daemon::{AGENT, World};
use crate::viewer::Viewer;
use crate::wait::until;

/// A runner that is observed, whose shell has the hook's command in `$HOOK` and the receiver's address
/// in `$OTLP`.
fn observed(script: &str) -> World {
    let observe = Observe {
        env: BTreeMap::from([("OTLP".to_owned(), OTLP.to_owned())]),
        title: true,
        ..Observe::default()
    };
    let world = World::new(&["/bin/bash", "-c", script]).with(|spec| spec.observe = Some(observe));
    let hook = format!("{AGENT} hook --dir {}", world.dir.path().display());
    world.env("HOOK", EnvValue::Literal(hook))
}

fn signals(world: &World) -> Vec<What> {
    let lines = signal_log::read(&world.dir.signals(), 0, 1 << 24).unwrap_or_default().lines;
    lines
        .iter()
        .map(|(_, line)| serde_json::from_slice::<Signal>(line).unwrap())
        .inspect(|signal| assert_eq!(signal.epoch, 1))
        .map(|signal| signal.what)
        .collect()
}

/// Waits until a signal is as wanted, and answers what was made of it.
async fn until_signal<T>(world: &World, what: &str, wanted: impl Fn(&What) -> Option<T>) -> T {
    until(what, || {
        let all = signals(world);
        all.iter().find_map(&wanted).ok_or(all)
    })
    .await
}

fn body_of(what: &What) -> Option<Value> {
    match what {
        What::Hook { body, .. } => Some(body.clone()),
        What::HookOver { .. } | What::Telemetry { .. } | What::Title { .. } | What::Sent { .. } => {
            None
        }
    }
}

fn call_of(what: &What) -> Option<String> {
    match what {
        What::Hook { call, .. } => call.clone(),
        What::HookOver { .. } | What::Telemetry { .. } | What::Title { .. } | What::Sent { .. } => {
            None
        }
    }
}

async fn answered(world: &World, call: &str, output: &str) -> bool {
    let answer = AnswerHook { call: call.into(), output: output.into() };
    let mut viewer = Viewer::connect(world, "daemon", Wish::Answer(answer)).await;
    loop {
        match viewer.next().await {
            Some(Kind::Welcome(_)) => {}
            Some(Kind::Done(_)) => return true,
            Some(Kind::Refused(_)) => return false,
            other => panic!("no answer but {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_hook_is_taken_down_and_the_daemon_is_told() {
    let mut world = observed(r#"echo '{"event":"Stop","n":7}' | $HOOK; echo "said $?"; read x"#);
    let mut line = world.launch().await;
    world.until_recorded("said 0").await;
    let body = until_signal(&world, "the hook", body_of).await;
    assert_eq!(body, json!({ "event": "Stop", "n": 7 }));
    assert_eq!(line.signals().await, signal_log::end(&world.dir.signals()).unwrap());
    // A daemon that comes later is told as well.
    drop(line);
    let mut line = world.take_in_knowing(1).await.0;
    assert_eq!(line.signals().await, signal_log::end(&world.dir.signals()).unwrap());
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_hook_that_waits_is_answered_once_and_outlives_upgrades() {
    let script = r#"a=$(echo '{"tool":"Bash"}' | $HOOK --wait); echo "answer:$a:"; read x"#;
    let mut world = observed(script);
    let mut line = world.launch().await;
    let call = until_signal(&world, "the call", call_of).await;
    assert!(!answered(&world, "another", "no").await, "nobody waits for that");
    line.upgrade(AGENT).await;
    let mut line = world.take_in_knowing(1).await.0;
    // It has dialled anew, by the same name.
    until("the call, again", || {
        let calls: Vec<String> = signals(&world).iter().filter_map(call_of).collect();
        if calls == [call.clone(), call.clone()] { Ok(()) } else { Err(calls) }
    })
    .await;
    assert!(answered(&world, &call, "{\"yes\":1}").await);
    assert!(!answered(&world, &call, "again").await, "an answer is given once");
    world.until_recorded("answer:{\"yes\":1}:").await;
    let over = |what: &What| matches!(what, What::HookOver { call: over } if *over == call);
    until_signal(&world, "its end", |what| over(what).then_some(())).await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn of_a_part_that_is_told_again_and_again_only_what_is_new_is_taken_down() {
    let script = r#"tell() { echo "{\"n\":$1,\"more\":$2}" | $HOOK --part n; }
        tell 1 1; tell 1 2; tell 2 3; echo '{"other":1}' | $HOOK --part n; echo '{"n":null}' | $HOOK --part n
        tell 2 4; tell 1 5; echo '{"over":1}' | $HOOK; read x"#;
    let mut world = observed(script);
    let mut line = world.launch().await;
    until_signal(&world, "the last", |what| body_of(what).filter(|body| body["over"] == 1)).await;
    let told: Vec<Value> = signals(&world).iter().filter_map(body_of).collect();
    let wanted = [json!({ "n": 1 }), json!({ "n": 2 }), json!({ "n": 1 }), json!({ "over": 1 })];
    assert_eq!(told, wanted);
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_hook_that_is_killed_waits_no_longer() {
    let script = r#"echo '{}' | $HOOK --wait & p=$!; read x; kill $p; wait; echo gone; read x"#;
    let mut world = observed(script);
    let mut line = world.launch().await;
    let call = until_signal(&world, "the call", call_of).await;
    crate::viewer::send(&world, b"", false, true).await.unwrap();
    let over = |what: &What| matches!(what, What::HookOver { call: over } if *over == call);
    until_signal(&world, "its end", |what| over(what).then_some(())).await;
    assert!(!answered(&world, &call, "late").await);
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn nobody_else_tells_of_a_runner_or_answers_for_its_person() {
    let mut world = observed(r#"echo '{"n":1}' | $HOOK --wait; read x"#);
    let mut line = world.launch().await;
    let call = until_signal(&world, "the call", call_of).await;
    // From outside: the hook's own program, and its frame.
    let dir = world.dir.path().to_str().unwrap();
    let mut outside = std::process::Command::new(AGENT)
        .args(["hook", "--dir", dir])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    outside.stdin.take().unwrap().write_all(b"{\"n\":2}").unwrap();
    assert!(outside.wait().unwrap().success(), "an assistant is never disturbed");
    let hook = Hook { call: String::new(), body: "{\"n\":3}".into() };
    let mut viewer = Viewer::connect(&world, "me", Wish::Hook(hook)).await;
    assert!(matches!(viewer.next().await, Some(Kind::Refused(_))));
    assert_eq!(signals(&world).iter().filter_map(body_of).collect::<Vec<_>>(), [json!({ "n": 1 })]);
    assert!(answered(&world, &call, "yes").await, "the person's own answer is taken");
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn the_receivers_address_is_put_into_the_words_that_are_named_and_no_others() {
    let script = r#"case $1 in http://127.0.0.1:*/v1/logs) echo "ours is filled";; esac
        [ "$2" = '{stratavore:otlp}/v1/logs' ] && echo "theirs is not"; read x"#;
    let word = format!("{OTLP}/v1/logs");
    let observe = Observe { words: vec![4], ..Observe::default() };
    let world = World::new(&["/bin/bash", "-c", script, "bash", &word, &word]);
    let mut world = world.with(|spec| spec.observe = Some(observe));
    let mut line = world.launch().await;
    world.until_recorded("ours is filled").await;
    world.until_recorded("theirs is not").await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn telemetry_is_taken_of_the_runners_own_processes_only_and_outlives_upgrades() {
    let record = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [{
        "timeUnixNano": "1000000", "body": { "stringValue": "x.api_request" },
        "attributes": [{ "key": "n", "value": { "intValue": "1" } }],
    }] }] }] });
    let script = r#"
        port=${OTLP##*:}; body=$BODY; echo "port=$port="
        post() {
            exec 3<>/dev/tcp/127.0.0.1/$port
            printf 'POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' "$1" ${#body} "$body" >&3
            head -n 1 <&3; exec 3>&-
        }
        post /v1/logs; post /v1/metrics; post /other; read x; post /v1/logs; read x"#;
    let mut world = observed(script).env("BODY", EnvValue::Literal(record.to_string()));
    let mut line = world.launch().await;
    world.until_recorded("404 Not Found").await;
    let records = |world: &World| {
        let all = signals(world);
        let of = |what: &What| match what {
            What::Telemetry { record } => Some(record.clone()),
            What::Hook { .. } | What::HookOver { .. } | What::Title { .. } | What::Sent { .. } => {
                None
            }
        };
        all.iter().filter_map(of).collect::<Vec<_>>()
    };
    let expected =
        json!({ "body": "x.api_request", "time": 1000, "attributes": { "n": 1 }, "resource": {} });
    assert_eq!(records(&world), std::slice::from_ref(&expected));
    // We are no process of the runner: the connection is closed without an answer.
    let text = world.recorded_text();
    let port: u16 = text.split('=').nth(1).unwrap().parse().unwrap();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let body = record.to_string();
    let head =
        format!("POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    // It may be closed before all is written.
    let _written = stream.write_all(format!("{head}{body}").as_bytes());
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    world.until_noted("telemetry of a process outside").await;
    line.upgrade(AGENT).await;
    let mut line = world.take_in_knowing(1).await.0;
    crate::viewer::send(&world, b"", false, true).await.unwrap();
    until("the record after the upgrade", || {
        let found = records(&world);
        if found == [expected.clone(), expected.clone()] { Ok(()) } else { Err(found) }
    })
    .await;
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn titles_are_taken_down_when_they_change_and_spinners_are_none() {
    let script = r"for c in ⠂ ⠐ ⠂ ⠐; do printf '\033]2;%s busy\007' $c; done; read x; printf '\033]2;✳ ready\007'; read x";
    let mut world = observed(script);
    let mut line = world.launch().await;
    let titles = |world: &World| {
        let of = |what: &What| match what {
            What::Title { title } => Some(title.clone()),
            What::Hook { .. }
            | What::HookOver { .. }
            | What::Telemetry { .. }
            | What::Sent { .. } => None,
        };
        signals(world).iter().filter_map(of).collect::<Vec<_>>()
    };
    until("the first title", || if titles(&world).is_empty() { Err("none") } else { Ok(()) }).await;
    crate::viewer::send(&world, b"", false, true).await.unwrap();
    until("the second title", || {
        let found = titles(&world);
        if found == ["⠿ busy", "✳ ready"] { Ok(()) } else { Err(found) }
    })
    .await;
    assert!(signals(&world).contains(&What::Sent { bytes: 0 }), "what was typed for somebody");
    line.kill().await;
    line.exited().await;
}

#[tokio::test]
async fn a_program_may_have_a_file_as_its_standard_input() {
    let observe = Observe { input: Some("prompt".into()), ..Observe::default() };
    let mut world = World::new(&["/bin/bash", "-c", "cat; test -t 1 && echo '<a terminal>'"])
        .with(|spec| spec.observe = Some(observe));
    world.dir.create().unwrap();
    world.dir.write_file("prompt", "what to do\n".as_bytes()).unwrap();
    let mut line = world.launch().await;
    assert_eq!(line.exited().await, stratavore_core::runner::Cause::Exit(0));
    assert_eq!(world.recorded_text(), "what to do\r\n<a terminal>\r\n");
    for name in ["", "../x", ".x", "a/b"] {
        assert!(world.dir.write_file(name, b"").is_err(), "{name}");
    }
}

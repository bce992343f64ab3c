use std::time::Duration;

use stratavore_core::notify::{Channel, Topic};
use stratavore_notify::Fault;
use stratavore_testkit::receiver::{Receiver, Reply};

use crate::{With, file, send};

#[tokio::test]
async fn slack_gets_a_text_in_which_nothing_is_markup() {
    let receiver = Receiver::start();
    let url = format!("http://{}/services/T0/B0/very-secret", receiver.address);
    let sender = With::default().secret("slack", &url).sender();
    let channel = Channel::Slack { url: file("slack") };
    assert_eq!(send(&sender, &channel).await, Ok(Some(200)));
    let got = receiver.got().remove(0);
    assert_eq!(got.path, "/services/T0/B0/very-secret");
    let text = got.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("ada &lt;!channel&gt; &amp; \\x1b[31m"), "{text}");

    receiver.answers(|got, _| Reply::With(403, "a", "b".into(), format!("no {}", got.path)));
    let failure = send(&sender, &channel).await.unwrap_err();
    assert!(failure.detail.contains("no (hidden)"), "{failure:?}");
}

#[tokio::test]
async fn telegram_gets_plain_text_and_is_left_alone_as_long_as_it_asks() {
    let receiver = Receiver::start();
    let sender = With::default().secret("bot", "123:secret-token").sender();
    let server = Some(format!("http://{}", receiver.address).parse().unwrap());
    let channel = Channel::Telegram { token: file("bot"), chat: "-4711".into(), server };
    assert_eq!(send(&sender, &channel).await, Ok(Some(200)));
    let got = receiver.got().remove(0);
    assert_eq!(got.path, "/bot123:secret-token/sendMessage");
    let body = got.json();
    assert_eq!((&body["chat_id"], body.get("parse_mode")), (&"-4711".into(), None));
    assert!(body["text"].as_str().unwrap().contains("ada <!channel> &"));

    receiver.answers(|got, _| {
        let body = format!(
            r#"{{"ok":false,"description":"Too Many Requests at {}","parameters":{{"retry_after":35}}}}"#,
            got.path
        );
        Reply::With(429, "a", "b".into(), body)
    });
    let failure = send(&sender, &channel).await.unwrap_err();
    assert_eq!(
        (failure.fault, failure.retry_after),
        (Fault::Refused, Some(Duration::from_secs(35)))
    );
    assert!(failure.detail.contains("Too Many Requests at /bot(hidden)/"), "{failure:?}");
}

#[tokio::test]
async fn ntfy_gets_a_topic_a_priority_and_a_token() {
    let receiver = Receiver::start();
    let sender = With::default().secret("topic", "hidden-topic").secret("token", "tk_1").sender();
    let channel = Channel::Ntfy {
        server: format!("http://{}", receiver.address).parse().unwrap(),
        topic: Topic::Secret(file("topic")),
        token: Some(file("token")),
    };
    assert_eq!(send(&sender, &channel).await, Ok(Some(200)));
    let got = receiver.got().remove(0);
    assert_eq!((got.path.as_str(), got.header("authorization")), ("/", "Bearer tk_1"));
    assert_eq!(
        (&got.json()["topic"], &got.json()["priority"]),
        (&"hidden-topic".into(), &2.into())
    );
    assert!(got.json()["message"].as_str().unwrap().contains("漢字"));
    receiver.answers(|got, _| Reply::With(401, "a", "b".into(), got.body.clone()));
    let failure = send(&sender, &channel).await.unwrap_err();
    assert!(!failure.detail.contains("hidden-topic"), "{failure:?}");
}

/// The program is a script that writes down what it was given: there is no desktop where tests run.
#[tokio::test]
async fn the_desktop_gets_a_text_as_an_argument() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let (program, given) = (directory.path().join("notify-send"), directory.path().join("given"));
    let script = format!("#!/bin/sh\nfor word; do echo \"$word\"; done > {}\n", given.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let node = stratavore_core::NodeId::from_entropy([1; 16]);
    let sender = With { desktop: program, ..With::default() }.sender();
    assert_eq!(send(&sender, &Channel::Desktop { node }).await, Ok(None));
    let given = std::fs::read_to_string(given).unwrap();
    assert!(
        given.starts_with("--app-name=Stratavore\n--urgency\nlow\n--\nStratavore\n"),
        "{given}"
    );
    assert!(given.contains("ada &lt;!channel&gt; &amp; \\x1b[31m"), "{given}");

    let failure = send(&With::default().sender(), &Channel::Desktop { node }).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Misconfigured);
    assert!(failure.detail.contains("libnotify"), "{failure:?}");
}

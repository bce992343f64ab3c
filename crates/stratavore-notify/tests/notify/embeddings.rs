//! Vectors from services: both interfaces, and what they may answer.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use stratavore_core::Timestamp;
use stratavore_notify::{
    EmbeddingSettings, Embeddings, Failure, Fault, Interface, SystemResolver, roots,
};
use stratavore_testkit::receiver::{Receiver, Reply};

const KEY: &str = "sk-0123456789abcdef";

fn service(receiver: &Receiver, interface: Interface, path: &str, key: Option<&str>) -> Embeddings {
    let key = key.map(str::to_owned);
    Embeddings::new(EmbeddingSettings {
        interface,
        url: format!("http://{}{path}", receiver.address).parse().unwrap(),
        model: "tiny".into(),
        key: Arc::new(move || Ok(key.clone().map(SecretString::from))),
        resolver: Arc::new(SystemResolver),
        roots: roots(None).unwrap(),
        timeout: Duration::from_secs(10),
    })
}

async fn ask(service: &Embeddings) -> Result<Vec<Vec<f32>>, Failure> {
    service.embed(&["one".into(), "two".into()], Timestamp::UNIX_EPOCH).await
}

fn body(value: serde_json::Value) -> Reply {
    Reply::With(200, "content-type", "application/json".into(), value.to_string())
}

#[tokio::test]
async fn both_interfaces_are_spoken() {
    let receiver = Receiver::answering(|got, _| match got.path.as_str() {
        // In another order, as the interface allows.
        "/v1/embeddings" => body(json!({ "data": [
            { "index": 1, "embedding": [0.0, 2.0] }, { "index": 0, "embedding": [1.0, 0.5] },
        ] })),
        "/api/embed" => body(json!({ "embeddings": [[3.0], [4.0]] })),
        _ => Reply::Status(404),
    });
    let openai = service(&receiver, Interface::OpenAi, "/v1", Some(KEY));
    assert_eq!(ask(&openai).await.unwrap(), [[1.0, 0.5], [0.0, 2.0]]);
    let ollama = service(&receiver, Interface::Ollama, "", None);
    assert_eq!(ask(&ollama).await.unwrap(), [[3.0], [4.0]]);
    let got = receiver.got();
    assert_eq!(got[0].header("authorization"), format!("Bearer {KEY}"));
    assert_eq!(got[1].header("authorization"), "");
    for one in got {
        assert_eq!(one.json(), json!({ "model": "tiny", "input": ["one", "two"] }));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_and_the_key_is_not() {
    for (reply, fault, said) in [
        (Reply::Status(500), Fault::Refused, "trouble"),
        (Reply::With(401, "x", "y".into(), format!("bad key {KEY}")), Fault::Refused, "(hidden)"),
        (Reply::Status(302), Fault::Refused, "redirect"),
        (
            Reply::With(200, "x", "y".into(), "<html>".into()),
            Fault::Misconfigured,
            "something else",
        ),
        (body(json!({ "data": [] })), Fault::Misconfigured, "0 vectors for 2 texts"),
        (
            body(
                json!({ "data": [{ "index": 0, "embedding": [1.0] }, { "index": 1, "embedding": [1.0, 2.0] }] }),
            ),
            Fault::Misconfigured,
            "another length",
        ),
        (Reply::End, Fault::Away, ""),
    ] {
        let receiver = Receiver::answering(move |_, _| reply.clone());
        let failure =
            ask(&service(&receiver, Interface::OpenAi, "/v1/", Some(KEY))).await.unwrap_err();
        assert_eq!(failure.fault, fault, "{failure:?}");
        assert!(failure.detail.contains(said) && !failure.detail.contains(KEY), "{failure:?}");
    }
    let unread = Embeddings::new(EmbeddingSettings {
        interface: Interface::OpenAi,
        url: "http://127.0.0.1:9/".parse().unwrap(),
        model: "tiny".into(),
        key: Arc::new(|| Err("it is readable by others".into())),
        resolver: Arc::new(SystemResolver),
        roots: roots(None).unwrap(),
        timeout: Duration::from_secs(10),
    });
    assert!(ask(&unread).await.unwrap_err().detail.contains("readable by others"));
}

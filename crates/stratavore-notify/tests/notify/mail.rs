use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stratavore_core::notify::{Channel, MailTls};
use stratavore_notify::Fault;
use stratavore_testkit::mail::{MailServer, PASSWORD};

use crate::{Names, With, file, id, send};

const HOST: &str = "mail.test";

/// A certificate of its own for the server, as PEM, with its key beside it.
fn certificate(directory: &Path) -> String {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    std::fs::write(directory.join("server.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn channel(server: &MailServer, tls: MailTls, to: &[&str]) -> Channel {
    let login = tls != MailTls::Off;
    Channel::Email {
        host: HOST.into(),
        port: server.address.port(),
        tls,
        user: login.then(|| "sv".into()),
        password: login.then(|| file("password")),
        from: "sv@example.org".into(),
        to: to.iter().map(ToString::to_string).collect(),
    }
}

fn with(root: Option<String>, password: &str) -> With {
    let names = Names::of(HOST, &[&["127.0.0.1"]]);
    With { names, root, ..With::default() }.secret("password", password)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_is_taken_by_a_server_that_is_not_ours() {
    let directory = tempfile::tempdir().unwrap();
    let root = certificate(directory.path());
    for (tls, how) in
        [(MailTls::Off, "off"), (MailTls::Starttls, "starttls"), (MailTls::Tls, "tls")]
    {
        let server = MailServer::start(how, directory.path());
        let sender = with(Some(root.clone()), PASSWORD).sender();
        let to = ["a@example.org", "b@example.org"];
        assert_eq!(send(&sender, &channel(&server, tls, &to)).await, Ok(Some(250)), "{how}");
        let mail = server.taken().remove(0);
        assert_eq!(mail["from"], "sv@example.org");
        assert_eq!(mail["to"], serde_json::json!(to));
        let protected = tls != MailTls::Off;
        assert_eq!(mail["tls"], protected, "{how}");
        assert_eq!(mail["user"].as_str(), protected.then_some("sv"), "{how}");
        let content = mail["content"].as_str().unwrap();
        let (head, body) = content.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Message-ID: <{}@example.org>", id())), "{head}");
        let body = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains("ada <!channel> & \\x1b[31m") && body.contains("漢字"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_says_no_or_is_another_one_gets_no_mail_and_no_password() {
    let directory = tempfile::tempdir().unwrap();
    let root = certificate(directory.path());
    let server = MailServer::start("starttls", directory.path());
    let to = ["a@example.org"];
    let good = channel(&server, MailTls::Starttls, &to);

    let failure = send(&with(Some(root.clone()), "wrong").sender(), &good).await.unwrap_err();
    assert_eq!((failure.fault, failure.status), (Fault::Refused, Some(535)), "{failure:?}");
    assert!(failure.detail.contains("does not let sv in") && !failure.detail.contains("wrong"));

    let nobody = channel(&server, MailTls::Starttls, &["nobody@example.org"]);
    let failure = send(&with(Some(root.clone()), PASSWORD).sender(), &nobody).await.unwrap_err();
    assert_eq!((failure.fault, failure.status), (Fault::Refused, Some(550)), "{failure:?}");

    // A certificate that nobody we trust has signed.
    let failure = send(&with(None, PASSWORD).sender(), &good).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Misconfigured, "{failure:?}");

    // One that offers no TLS is not told the password.
    let plain = MailServer::start("off", directory.path());
    let asked = channel(&plain, MailTls::Starttls, &to);
    let failure = send(&with(Some(root.clone()), PASSWORD).sender(), &asked).await.unwrap_err();
    assert!(failure.detail.contains("offers no STARTTLS"), "{failure:?}");
    assert!(server.taken().is_empty() && plain.taken().is_empty());

    // The control: with all of it as it should be, it is taken.
    assert_eq!(send(&with(Some(root), PASSWORD).sender(), &good).await, Ok(Some(250)));
    assert_eq!(server.taken().len(), 1);
}

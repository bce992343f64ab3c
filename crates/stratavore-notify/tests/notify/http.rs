use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stratavore_notify::Fault;
use stratavore_testkit::receiver::{Receiver, Reply};

use crate::{Names, SECRET, With, id, send, webhook};

#[tokio::test]
async fn a_webhook_carries_its_id_time_and_signature_and_no_secret() {
    let receiver = Receiver::start();
    let sender = With::default().sender();
    assert_eq!(send(&sender, &webhook(&receiver.url())).await, Ok(Some(200)));
    let got = receiver.got().remove(0);
    assert_eq!((got.path.as_str(), got.header("host")), ("/hook", &*receiver.address.to_string()));
    assert_eq!(got.header("webhook-id"), id().to_string());
    assert_eq!(got.header("webhook-timestamp"), "1795255200");
    assert!(got.header("webhook-signature").starts_with("v1,"));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.json()["type"], "stratavore.test");
    assert!(!format!("{got:?}").contains(&SECRET[6..]));
}

#[tokio::test]
async fn each_answer_means_what_it_should() {
    for (reply, fault, status, says) in [
        (Reply::Status(404), Fault::Refused, Some(404), "nothing at this URL"),
        (Reply::Status(410), Fault::Gone, Some(410), "gone for good"),
        (Reply::Status(503), Fault::Refused, Some(503), "trouble of its own"),
        (Reply::End, Fault::Away, None, "talk HTTP"),
        (
            Reply::With(400, "a", "b".into(), format!("no {SECRET}\u{7}")),
            Fault::Refused,
            Some(400),
            "no (hidden)\\x07",
        ),
    ] {
        let receiver = Receiver::answering(move |_, _| reply.clone());
        let failure = send(&With::default().sender(), &webhook(&receiver.url())).await.unwrap_err();
        assert_eq!((failure.fault, failure.status), (fault, status), "{failure:?}");
        assert!(failure.detail.contains(says), "{failure:?}");
    }
    let busy =
        Receiver::answering(|_, _| Reply::With(429, "retry-after", "7".into(), String::new()));
    let failure = send(&With::default().sender(), &webhook(&busy.url())).await.unwrap_err();
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Receiver::start();
    let to = other.url();
    for status in [301, 302, 307, 308] {
        let to = to.clone();
        let receiver = Receiver::answering(move |_, _| {
            Reply::With(status, "location", to.clone(), String::new())
        });
        let failure = send(&With::default().sender(), &webhook(&receiver.url())).await.unwrap_err();
        assert_eq!((failure.fault, failure.status), (Fault::Refused, Some(status)));
    }
    assert!(other.got().is_empty());
}

#[tokio::test]
async fn a_receiver_that_says_nothing_is_not_waited_for() {
    let receiver = Receiver::answering(|_, _| Reply::Silence);
    let with = With { timeout: Duration::from_millis(200), ..With::default() };
    let failure = send(&with.sender(), &webhook(&receiver.url())).await.unwrap_err();
    assert_eq!((failure.fault, failure.detail.as_str()), (Fault::Away, "no answer within 0.2 s"));
}

/// A server that answers with as much as it is let: `head`, then the same bytes again and again.
fn flood(head: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).unwrap() > 0);
        stream.write_all(head.as_bytes()).ok();
        // Until whoever asked has had enough.
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    address
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let began = Instant::now();
    let address = flood("HTTP/1.1 200 OK\r\n\r\n");
    let sent = send(&With::default().sender(), &webhook(&format!("http://{address}/"))).await;
    assert_eq!(sent, Ok(Some(200)), "its status is what counts");
    let address = flood("HTTP/1.1 200 OK\r\nx: ");
    let failure =
        send(&With::default().sender(), &webhook(&format!("http://{address}/"))).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Away);
    assert!(began.elapsed() < Duration::from_secs(9), "and not by being given up on");
}

#[tokio::test]
async fn a_name_is_judged_by_its_addresses_and_asked_for_once() {
    let receiver = Receiver::start();
    let url = format!("http://hook.test:{}/", receiver.address.port());
    let with = |allow, answers: &[&[&str]]| {
        let names = Names::of("hook.test", answers);
        (names.clone(), With { allow, names, ..With::default() }.sender())
    };
    for private in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "64:ff9b::7f00:1",
    ] {
        let (_, sender) = with("", &[&[private]]);
        let failure = send(&sender, &webhook(&url)).await.unwrap_err();
        assert_eq!(failure.fault, Fault::Misconfigured, "{private}: {failure:?}");
        assert!(failure.detail.contains("notify.allow_addresses"), "{}", failure.detail);
    }
    assert!(receiver.got().is_empty());

    // A name that changes while it is used: the address that was judged is the one that is dialled.
    let (names, sender) = with("127.0.0.1", &[&["127.0.0.1"], &["10.0.0.1"]]);
    assert_eq!(send(&sender, &webhook(&url)).await, Ok(Some(200)));
    assert_eq!(names.asked.load(Ordering::SeqCst), 1);
    assert_eq!(receiver.got().len(), 1);
    assert_eq!(receiver.got()[0].header("host"), &url[7..url.len() - 1]);
    let failure = send(&sender, &webhook(&url)).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Misconfigured, "it is judged anew each time");

    // Of several addresses only those are dialled that may be.
    let (_, sender) = with("127.0.0.1", &[&["127.0.0.2", "127.0.0.1"]]);
    assert_eq!(send(&sender, &webhook(&url)).await, Ok(Some(200)));

    // The control: without the rule a private address is reached.
    let (_, sender) = with("0.0.0.0/0", &[&["127.0.0.1"]]);
    assert_eq!(send(&sender, &webhook(&url)).await, Ok(Some(200)));
    assert_eq!(receiver.got().len(), 3);
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_sent() {
    let sender =
        With::default().secret("odd", "no secret").secret("url", "https://10.0.0.1/x").sender();
    for (channel, says) in [
        (webhook("http://169.254.169.254/latest"), "local link"),
        (
            stratavore_core::notify::Channel::Webhook {
                url: "https://example.org".parse().unwrap(),
                secret: crate::file("odd"),
            },
            "a secret is `whsec_`",
        ),
        (stratavore_core::notify::Channel::Slack { url: crate::file("none") }, "no such file"),
        (stratavore_core::notify::Channel::Slack { url: crate::file("odd") }, "is no URL"),
        (stratavore_core::notify::Channel::Slack { url: crate::file("url") }, "private network"),
    ] {
        let why = sender.check(&channel).unwrap_err();
        assert!(why.contains(says) && !why.contains("no secret"), "{why}");
    }
    assert_eq!(sender.check(&webhook("https://example.org/hook")), Ok(()));
}

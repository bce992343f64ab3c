//! TLS to the broker: it proves who it is before anything is said to it, and may ask the same.

use std::net::SocketAddr;

use stratavore_bus::rabbit::{Link, Outcome, Own, RabbitError, Settings, Tls};
use stratavore_testkit::proxy::{Ambush, Proxy, Strike, Way};
use stratavore_testkit::rabbit::{Vhost, vhost};
use stratavore_testkit::tls::{Ca, Certified};

use crate::rig::{channel, message, queue, settings, taken};

/// A broker at `at`, reached as `localhost`, that `roots` have to speak for.
fn encrypted(vhost: &Vhost, at: SocketAddr, roots: &str) -> Settings {
    let tls = Some(Tls { roots: Some(roots.into()), own: None });
    Settings { host: "localhost".into(), tls, ..settings(vhost, at) }
}

fn own(shown: &Certified) -> Option<Own> {
    Some(Own { certificate: shown.certificate.clone(), key: shown.key.clone().into() })
}

/// Why it cannot be used, for whoever has to mend it.
async fn refused(settings: Settings) -> String {
    match Link::connect(settings).await.err() {
        Some(RabbitError::Misconfigured { what, hint }) => format!("{what}; {hint}"),
        Some(RabbitError::Away(what)) => format!("away: {what}"),
        None => "it connects".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_with_tls_is_confirmed_and_cannot_be_read_on_the_way() {
    let (vhost, ca) = (vhost(), Ca::new());
    let listener = vhost.listen(&ca.server("localhost"), None);
    let own = channel(&vhost).await;
    for (at, is_plain) in [(vhost.address(), true), (listener.address(), false)] {
        let wire = Proxy::tcp(at);
        let safe = encrypted(&vhost, wire.address(), &ca.pem);
        let settings = if is_plain { Settings { tls: None, ..safe } } else { safe };
        let link = Link::connect(settings).await.unwrap();
        queue(&own, "own", "good.#", None).await;
        // It waits for what the messages say; the plain way is the control.
        let after = b"not for others".to_vec();
        wire.lay(Ambush { after, way: Way::Up, bytes: 0, then: Strike::Cut });
        let mut lane = link.lane().await.unwrap();
        let sent = |n| {
            let mut sent = message(&format!("m{n}"), "good.one");
            sent.body = b"this is not for others to read".to_vec();
            sent
        };
        let outcomes = lane.send(&(0..64).map(sent).collect::<Vec<_>>()).await;
        assert_eq!(wire.struck() > 0, is_plain);
        if !is_plain {
            assert_eq!(outcomes, vec![Outcome::Confirmed; 64]);
            assert_eq!(taken(&own, "own").await.len(), 64);
        }
        taken(&own, "own").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_the_one_named_is_told_so_and_hears_nothing() {
    let (vhost, ca, other) = (vhost(), Ca::new(), Ca::new());
    let listener = vhost.listen(&ca.server("localhost"), None);
    let over = vhost.listen(&ca.expired("localhost"), None);
    let good = encrypted(&vhost, listener.address(), &ca.pem);
    Link::connect(good.clone()).await.unwrap().close().await;
    // Of several certificates one is enough.
    let both = encrypted(&vhost, listener.address(), &format!("{}{}", other.pem, ca.pem));
    Link::connect(both).await.unwrap().close().await;

    let of_system = Some(Tls::default());
    for (wrong, said) in [
        (encrypted(&vhost, listener.address(), &other.pem), "UnknownIssuer"),
        (Settings { tls: of_system, ..good.clone() }, "bus.rabbitmq.root_cert names"),
        (Settings { host: "127.0.0.1".into(), ..good.clone() }, "not valid for name"),
        (encrypted(&vhost, over.address(), &ca.pem), "xpired"),
        (encrypted(&vhost, listener.address(), "nothing"), "holds no certificate"),
        (encrypted(&vhost, vhost.address(), &ca.pem), "the broker's port for TLS"),
        (Settings { host: "not a name".into(), ..good.clone() }, "not a name"),
    ] {
        let refused = refused(wrong).await;
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!refused.contains(&vhost.password), "{refused}");
    }
    // Who speaks no TLS to a port of TLS is refused as well.
    let plain = refused(Settings { tls: None, ..good }).await;
    assert!(!plain.contains("it connects"), "{plain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_may_ask_for_a_certificate() {
    let (vhost, ca, clients, other) = (vhost(), Ca::new(), Ca::new(), Ca::new());
    let listener = vhost.listen(&ca.server("localhost"), Some(&clients));
    let good = encrypted(&vhost, listener.address(), &ca.pem);
    let with =
        |own| Settings { tls: Some(Tls { roots: Some(ca.pem.clone()), own }), ..good.clone() };
    let certified = clients.client("stratavore");
    let link = Link::connect(with(own(&certified))).await.unwrap();
    assert!(link.is_open());
    link.close().await;

    let strange = other.client("stratavore");
    let mixed = Certified { certificate: certified.certificate, key: strange.key.clone() };
    let empty = Certified { certificate: String::new(), key: strange.key.clone() };
    let broken = Certified { certificate: clients.client("x").certificate, key: "x".into() };
    for (shown, said) in [
        (None, "bus.rabbitmq.client_cert"),
        (own(&strange), "bus.rabbitmq.client_cert"),
        (own(&mixed), "bus.rabbitmq.client_cert"),
        (own(&empty), "client_cert holds no certificate"),
        (own(&broken), "holds no key"),
    ] {
        let refused = refused(with(shown)).await;
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!refused.contains(strange.key.trim()), "{refused}");
    }
}

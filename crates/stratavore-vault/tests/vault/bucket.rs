//! What is promised of a bucket: what its server does is noticed, and what it failed at is done again.

use std::sync::Arc;

use stratavore_testkit::s3::{Fault, KEY, S3};
use stratavore_vault::{Credentials, Vault, VaultError, digest};

use crate::place::{At, NAME, key, old, settings};

fn server(at: &At) -> &S3 {
    at.server.as_ref().unwrap()
}

fn why(error: VaultError) -> String {
    let VaultError::Bucket { why, .. } = error else { panic!("{error}") };
    why
}

#[tokio::test]
async fn a_fault_that_passes_is_not_told() {
    let at = At::bucket();
    let bytes = b"something to keep ".repeat(100);
    for fault in [Fault::Status(503, "SlowDown"), Fault::Status(500, "InternalError"), Fault::End] {
        for method in ["HEAD", "PUT"] {
            server(&at).fail(method, fault.clone());
            assert_eq!(at.vault.put(bytes.clone()).await.unwrap().digest, digest(&bytes));
        }
        server(&at).fail("GET", fault);
        assert_eq!(at.vault.get(digest(&bytes)).await.unwrap(), bytes);
    }
    // It was done, and nobody said so.
    server(&at).fail("PUT", Fault::Silence);
    at.vault.put(bytes.clone()).await.unwrap();
    for most in [0, 1, 20] {
        server(&at).fail("GET", Fault::Cut(most));
        assert_eq!(at.vault.get(digest(&bytes)).await.unwrap(), bytes, "cut after {most}");
    }
    assert_eq!(at.vault.problem(), None);
    assert_eq!(server(&at).refused(), [""; 0]);
}

#[tokio::test]
async fn a_fault_that_stays_is_told_and_nothing_is_said_to_be_kept() {
    let at = At::bucket();
    for _ in 0..3 {
        server(&at).fail("PUT", Fault::Status(503, "SlowDown"));
    }
    let refused = at.vault.put(b"bytes".to_vec()).await.unwrap_err();
    assert_eq!(why(refused), "it answers 503 SlowDown");
    assert!(at.vault.problem().unwrap().contains("503 SlowDown"));
    assert_eq!(server(&at).keys(), [""; 0]);
    // What it refuses is not asked again.
    server(&at).fail("PUT", Fault::Status(403, "AccessDenied"));
    let before = server(&at).asked().len();
    let refused = at.vault.put(b"bytes".to_vec()).await.unwrap_err();
    assert_eq!(why(refused), "it answers 403 AccessDenied");
    assert_eq!(server(&at).asked().len(), before + 2);
    // A bucket that is not there is no blob that is not there.
    server(&at).fail("GET", Fault::Status(404, "NoSuchBucket"));
    let gone = at.vault.get(digest(b"bytes")).await.unwrap_err();
    assert_eq!(why(gone), "it answers 404 NoSuchBucket");
    at.vault.put(b"bytes".to_vec()).await.unwrap();
    assert_eq!(at.vault.problem(), None);
}

#[tokio::test]
async fn bytes_that_are_others_on_the_way_are_noticed() {
    let at = At::bucket();
    let kept = at.vault.put(b"something to keep ".repeat(100)).await.unwrap();
    server(&at).fail("GET", Fault::WrongBytes);
    let wrong = at.vault.get(kept.digest).await;
    assert!(matches!(wrong, Err(VaultError::Damaged { .. })), "{wrong:?}");
    assert!(at.vault.get(kept.digest).await.is_ok());
}

#[tokio::test]
async fn nobody_is_let_in_by_another_secret_or_at_another_place() {
    let at = At::bucket();
    for (secret, region) in [("another", "eu-north-1"), ("stand/in+secret", "us-east-1")] {
        let mut settings = settings(&server(&at).url());
        settings.region = region.into();
        settings.credentials = Arc::new(move || {
            Ok(Credentials { key: KEY.into(), secret: secret.into(), token: None })
        });
        let vault = Vault::open_bucket(settings, at.home.path().join("none")).unwrap();
        let refused = vault.put(b"bytes".to_vec()).await.unwrap_err();
        assert_eq!(why(refused), "it answers 403");
    }
    assert_eq!(server(&at).refused(), ["SignatureDoesNotMatch", "AuthorizationHeaderMalformed"]);
    assert_eq!(server(&at).keys(), [""; 0]);
    // The control: with the right ones it is.
    at.vault.put(b"bytes".to_vec()).await.unwrap();
    // No secret is in what is asked for.
    assert!(server(&at).asked().iter().all(|asked| !asked.contains("secret")));
}

#[tokio::test]
async fn a_removal_in_doubt_is_settled_before_the_blob_is_put_there_again() {
    let at = At::bucket();
    let kept = at.vault.put(b"bytes".to_vec()).await.unwrap();
    at.make_old(kept.digest);
    assert!(at.vault.set_aside(kept.digest, old()).await.unwrap());
    for _ in 0..3 {
        server(&at).fail("DELETE", Fault::End);
    }
    at.vault.discard(kept.digest).await.unwrap_err();
    let before = server(&at).asked().len();
    assert!(!at.vault.put(b"bytes".to_vec()).await.unwrap().is_old);
    let key = key(kept.digest);
    let asked = &server(&at).asked()[before..];
    assert_eq!(asked, [format!("DELETE {key}"), format!("HEAD {key}"), format!("PUT {key}")]);
    assert_eq!(at.vault.get(kept.digest).await.unwrap(), b"bytes");
}

#[tokio::test]
async fn what_was_in_a_directory_before_is_read_listed_and_removed() {
    let old_place = At::directory();
    let before = old_place.vault.put(b"before".to_vec()).await.unwrap();
    let server = S3::start();
    let vault =
        Vault::open_bucket(settings(&server.url()), old_place.home.path().join("vault")).unwrap();
    let after = vault.put(b"after".to_vec()).await.unwrap();
    assert_eq!(vault.get(before.digest).await.unwrap(), b"before");
    let mut both = [before.digest, after.digest];
    both.sort_unstable();
    assert_eq!(vault.list(None, 10).await.unwrap(), both);
    assert_eq!(vault.list(None, 1).await.unwrap(), both[..1]);
    assert_eq!(vault.list(Some(both[0]), 10).await.unwrap(), both[1..]);
    old_place.make_old(before.digest);
    assert!(vault.set_aside(before.digest, old()).await.unwrap());
    assert_eq!(vault.aside().await.unwrap(), [before.digest]);
    vault.discard(before.digest).await.unwrap();
    assert!(matches!(vault.get(before.digest).await, Err(VaultError::Missing(_))));
    assert_eq!(server.keys().len(), 1);
}

/// The vault of another node in the same bucket.
fn other(at: &At) -> Vault {
    let settings =
        stratavore_vault::S3Settings { name: "node_2".into(), ..settings(&server(at).url()) };
    Vault::open_bucket(settings, at.home.path().join("none")).unwrap()
}

#[tokio::test]
async fn what_another_vault_of_the_bucket_has_is_read_and_compared_and_stays_its_own() {
    let at = At::bucket();
    let other = other(&at);
    let bytes = b"something to keep ".repeat(100);
    let kept = at.vault.put(bytes.clone()).await.unwrap();
    assert_eq!(other.get_of(NAME, kept.digest).await.unwrap(), Some(bytes));
    // It is read only where it was asked for, and it is the other one's to list and to remove.
    assert!(matches!(other.get(kept.digest).await, Err(VaultError::Missing(_))));
    assert_eq!(other.get_of("node_3", kept.digest).await.unwrap(), None);
    assert_eq!(other.list(None, 10).await.unwrap(), []);
    at.make_old(kept.digest);
    assert!(!other.set_aside(kept.digest, old()).await.unwrap());

    at.overwrite(kept.digest, b"rubbish");
    let wrong = other.get_of(NAME, kept.digest).await;
    assert!(matches!(wrong, Err(VaultError::Damaged { .. })), "{wrong:?}");
    assert!(other.is_shared());
    // A directory is one vault's alone.
    let alone = At::directory();
    let kept = alone.vault.put(b"bytes".to_vec()).await.unwrap();
    assert_eq!(alone.vault.get_of(NAME, kept.digest).await.unwrap(), None);
    assert!(!alone.vault.is_shared());
}

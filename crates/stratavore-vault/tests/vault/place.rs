//! The places that a vault may be at, and a way behind its back to what is there.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(feature = "s3")]
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stratavore_core::transcript::Digest;
use stratavore_vault::Vault;
use tempfile::TempDir;

/// A vault, and where its blobs are.
pub(crate) struct At {
    pub(crate) vault: Vault,
    pub(crate) home: TempDir,
    #[cfg(feature = "s3")]
    pub(crate) server: Option<stratavore_testkit::s3::S3>,
}

/// What keys begin with in the bucket of the tests.
#[cfg(feature = "s3")]
pub(crate) const PREFIX: &str = "team";
/// And what those of the vault go on with.
#[cfg(feature = "s3")]
pub(crate) const NAME: &str = "node_1";

/// The system's clock.
#[cfg(feature = "s3")]
struct Now;

#[cfg(feature = "s3")]
#[expect(clippy::disallowed_methods, reason = "it is the clock")]
impl stratavore_core::clock::Clock for Now {
    fn now(&self) -> jiff::Timestamp {
        SystemTime::now().try_into().unwrap()
    }

    fn monotonic(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }
}

/// How the tests reach a server of S3.
#[cfg(feature = "s3")]
pub(crate) fn settings(url: &str) -> stratavore_vault::S3Settings {
    use stratavore_notify::{Http, SystemResolver, roots};
    use stratavore_testkit::s3::{BUCKET, KEY, REGION, SECRET};
    let timeout = Duration::from_secs(2);
    stratavore_vault::S3Settings {
        endpoint: url.parse().unwrap(),
        region: REGION.into(),
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        name: NAME.into(),
        credentials: Arc::new(|| {
            let (key, secret) = (KEY.into(), SECRET.into());
            Ok(stratavore_vault::Credentials { key, secret, token: None })
        }),
        http: Http::new(Arc::new(SystemResolver), roots(None).unwrap(), timeout),
        clock: Arc::new(Now),
    }
}

impl At {
    pub(crate) fn directory() -> Self {
        let home = tempfile::tempdir().unwrap();
        let vault = Vault::open(home.path().join("vault")).unwrap();
        Self {
            vault,
            home,
            #[cfg(feature = "s3")]
            server: None,
        }
    }

    #[cfg(feature = "s3")]
    pub(crate) fn bucket() -> Self {
        let server = stratavore_testkit::s3::S3::start();
        let home = tempfile::tempdir().unwrap();
        let before = home.path().join("vault");
        let vault = Vault::open_bucket(settings(&server.url()), before).unwrap();
        Self { vault, home, server: Some(server) }
    }

    pub(crate) fn file(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.home.path().join("vault/blobs").join(&name[..2]).join(format!("{name}.zst"))
    }

    /// What is kept of a blob, as it is kept.
    pub(crate) fn packed(&self, digest: Digest) -> Option<Vec<u8>> {
        #[cfg(feature = "s3")]
        if let Some(server) = &self.server {
            return server.object(&key(digest));
        }
        fs::read(self.file(digest)).ok()
    }

    /// Has it be something else.
    pub(crate) fn overwrite(&self, digest: Digest, bytes: &[u8]) {
        #[cfg(feature = "s3")]
        if let Some(server) = &self.server {
            return server.set(&key(digest), bytes.to_vec());
        }
        fs::write(self.file(digest), bytes).unwrap();
    }

    pub(crate) fn erase(&self, digest: Digest) {
        #[cfg(feature = "s3")]
        if let Some(server) = &self.server {
            return server.erase(&key(digest));
        }
        fs::remove_file(self.file(digest)).unwrap();
    }

    /// Has it be there for long.
    pub(crate) fn make_old(&self, digest: Digest) {
        #[cfg(feature = "s3")]
        if let Some(server) = &self.server {
            return server.date(&key(digest), stratavore_testkit::s3::long_ago());
        }
        make_old(&self.file(digest));
    }
}

#[cfg(feature = "s3")]
pub(crate) fn key(digest: Digest) -> String {
    format!("{PREFIX}/{NAME}/blobs/{digest}.zst")
}

fn make_old(path: &Path) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// After everything that is done now, and before what is done by then.
pub(crate) fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)
}

/// Runs a test on a vault at each place.
macro_rules! on_each_place {
    ($($(#[$meta:meta])* async fn $name:ident($at:ident: At) $body:block)+) => {$(
        mod $name {
            use super::*;

            async fn promise($at: At) $body

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn in_a_directory() {
                promise(At::directory()).await;
            }

            #[cfg(feature = "s3")]
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn in_a_bucket() {
                promise(At::bucket()).await;
            }
        }
    )+};
}

pub(crate) use on_each_place;

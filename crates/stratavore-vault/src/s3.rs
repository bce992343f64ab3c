//! Blobs in a bucket of S3, or of what speaks as it does: `PREFIX/NAME/blobs/DIGEST.zst`.
//!
//! Requests are signed by `rusty-s3` and sent by [`Http`]. One daemon at a time writes below a name
//! (that of its node), so that who removes a blob and who puts it there again are in this process,
//! and take turns by its digest. What is set aside is only remembered: a daemon that dies forgets
//! it, and finds the blob again as one that nobody names. What is below another name is only read.
//!
//! Putting a blob here again writes it again. That makes it young, by the server's own time, and
//! mends it if it was damaged.

mod answer;
mod settings;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rusty_s3::{S3Action, UrlStyle};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use stratavore_core::clock::Clock;
use stratavore_core::notify::url::PlainUrl;
use stratavore_core::transcript::Digest;
use stratavore_notify::{Answered, Asked, Http, Method};

use self::answer::{is_no_such_key, path_of, said};
pub use self::settings::{Credentials, ReadCredentials, S3Settings};
use crate::directory::Directory;
use crate::pack::{pack, unpack};
use crate::{BLOB_MAX, Kept, VaultError, blocking, checked, digest};

/// How long a signature holds: long enough for clocks that differ.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);
/// The waits before a request is made again that nobody has answered, or with a fault of the
/// server's own. Servers ask for that now and then.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// The most of an answer that is not a blob.
const ANSWER_MAX: usize = 4 << 20;
/// What cannot be compressed becomes a little longer.
const PACKED_MAX: usize = BLOB_MAX + (1 << 20);
/// The most keys of one answer.
const LISTED_MAX: usize = 1000;
/// Times in headers have whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// So many digests take turns apart from one another.
const TURNS: usize = 64;

/// Where blobs are.
pub(crate) struct Bucket {
    endpoint: PlainUrl,
    bucket: rusty_s3::Bucket,
    prefix: String,
    name: String,
    credentials: ReadCredentials,
    http: Http,
    clock: Arc<dyn Clock>,
    /// Where they were before.
    before: Option<Arc<Directory>>,
    turns: [tokio::sync::Mutex<()>; TURNS],
    aside: Mutex<BTreeSet<Digest>>,
    /// Nobody has said whether they are removed.
    in_doubt: Mutex<BTreeSet<Digest>>,
    problem: Mutex<Option<String>>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob as the server describes it.
struct Found {
    size: Option<u64>,
    /// How long it has been there.
    age: Duration,
}

impl Bucket {
    pub(crate) fn open(settings: S3Settings, before: PathBuf) -> Result<Self, VaultError> {
        let S3Settings { endpoint, region, bucket, prefix, name, credentials, http, clock } =
            settings;
        let wrong = |why: String| VaultError::Bucket {
            doing: "open the vault",
            place: format!("s3://{bucket}"),
            why,
        };
        let url = endpoint.to_string().parse();
        let url = url.map_err(|error| wrong(format!("the endpoint is no URL: {error}")))?;
        // By its path, since not every server has a name for each bucket.
        let named = rusty_s3::Bucket::new(url, UrlStyle::Path, bucket.clone(), region);
        let named = named.map_err(|error| wrong(error.to_string()))?;
        let before = match Directory::is_there(&before) {
            true => Some(Arc::new(Directory::open(before)?)),
            false => None,
        };
        Ok(Self {
            endpoint,
            bucket: named,
            prefix,
            name,
            credentials,
            http,
            clock,
            before,
            turns: [const { tokio::sync::Mutex::const_new(()) }; TURNS],
            aside: Mutex::default(),
            in_doubt: Mutex::default(),
            problem: Mutex::default(),
        })
    }

    pub(crate) fn problem(&self) -> Option<String> {
        locked(&self.problem).clone()
    }

    pub(crate) async fn put(&self, bytes: &[u8]) -> Result<Kept, VaultError> {
        let length = checked(bytes)?;
        let owned = bytes.to_vec();
        let packing = tokio::task::spawn_blocking(move || (digest(&owned), pack(&owned)));
        let (digest, packed) = packing.await.map_err(VaultError::CutOff)?;
        let doing = "put a blob there";
        let packed = packed.map_err(|error| self.wrong(doing, error))?;
        let stored = packed.len() as u64;
        let _turn = self.turn(digest).await;
        let was_aside = locked(&self.aside).contains(&digest);
        // Else a removal that is still on its way would take what is put here now.
        if locked(&self.in_doubt).contains(&digest) {
            self.remove(digest).await?;
        }
        let there = self.look(digest).await?;
        let is_old = !was_aside && there.is_some_and(|found| found.size == Some(stored));
        // The server refuses what does not have it.
        let sum = STANDARD.encode(Sha256::digest(&packed));
        let key = self.key(digest);
        let answered = self
            .ask(doing, Method::PUT, packed, ANSWER_MAX, |bucket, credentials, now| {
                let mut action = bucket.put_object(Some(credentials), &key);
                action.headers_mut().insert("x-amz-checksum-sha256", sum.as_str());
                let url = action.sign_with_time(SIGNED_FOR, now);
                (url.into(), vec![("x-amz-checksum-sha256", sum.clone())])
            })
            .await?;
        self.good(doing, &answered)?;
        locked(&self.aside).remove(&digest);
        Ok(Kept { digest, length, stored, is_old })
    }

    pub(crate) async fn get(&self, wanted: Digest) -> Result<Vec<u8>, VaultError> {
        match (self.get_of(&self.name, wanted).await?, &self.before) {
            (Some(bytes), _) => Ok(bytes),
            (None, Some(before)) => blocking(before, move |before| before.get(wanted)).await,
            (None, None) => Err(VaultError::Missing(wanted)),
        }
    }

    /// What is there below a name, this one's or another's.
    pub(crate) async fn get_of(
        &self,
        name: &str,
        wanted: Digest,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let doing = "read a blob";
        let key = format!("{}{wanted}.zst", self.blobs(name));
        let answered = self
            .ask(doing, Method::GET, Vec::new(), PACKED_MAX, |bucket, credentials, now| {
                let action = bucket.get_object(Some(credentials), &key);
                (action.sign_with_time(SIGNED_FOR, now).into(), Vec::new())
            })
            .await?;
        if is_no_such_key(&answered) {
            return Ok(None);
        }
        self.good(doing, &answered)?;
        let packed = answered.body.map_err(|why| self.wrong(doing, why))?;
        let unpacking = tokio::task::spawn_blocking(move || unpack(&packed[..], wanted));
        let path = PathBuf::from(format!("{}/{key}", self.place()));
        let unpacked = unpacking.await.map_err(VaultError::CutOff)?;
        unpacked.map(Some).map_err(|why| VaultError::Damaged { digest: wanted, path, why })
    }

    pub(crate) async fn list(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, VaultError> {
        let doing = "list the blobs";
        let prefix = self.blobs(&self.name);
        let start = after.map(|digest| self.key(digest));
        let (mut found, mut token) = (Vec::new(), None::<String>);
        while found.len() < limit {
            let most = (limit - found.len()).min(LISTED_MAX);
            let answered = self
                .ask(doing, Method::GET, Vec::new(), ANSWER_MAX, |bucket, credentials, now| {
                    let mut action = bucket.list_objects_v2(Some(credentials));
                    action.with_prefix(prefix.as_str());
                    action.with_max_keys(most);
                    match (&token, &start) {
                        (Some(token), _) => action.with_continuation_token(token.as_str()),
                        (None, Some(start)) => action.with_start_after(start.as_str()),
                        (None, None) => {}
                    }
                    (action.sign_with_time(SIGNED_FOR, now).into(), Vec::new())
                })
                .await?;
            self.good(doing, &answered)?;
            let body = answered.body.map_err(|why| self.wrong(doing, why))?;
            let listed =
                rusty_s3::actions::ListObjectsV2::parse_response(&String::from_utf8_lossy(&body));
            let listed = listed.map_err(|error| self.wrong(doing, error))?;
            // What has another name is none of ours.
            let named = |key: &str| -> Option<Digest> {
                key.strip_prefix(&prefix)?.strip_suffix(".zst")?.parse().ok()
            };
            found.extend(listed.contents.iter().filter_map(|one| named(&one.key)));
            token = listed.next_continuation_token;
            if token.is_none() {
                break;
            }
        }
        if let Some(before) = &self.before {
            found.extend(blocking(before, move |before| before.list(after, limit)).await?);
            found.sort_unstable();
            found.dedup();
            found.truncate(limit);
        }
        Ok(found)
    }

    pub(crate) async fn set_aside(
        &self,
        digest: Digest,
        before: SystemTime,
    ) -> Result<bool, VaultError> {
        let _turn = self.turn(digest).await;
        let Some(found) = self.look(digest).await? else {
            return match &self.before {
                Some(place) => blocking(place, move |place| place.set_aside(digest, before)).await,
                None => Ok(false),
            };
        };
        // By how long ago it was, and not by when: the server has a clock of its own.
        let wanted = SystemTime::from(self.clock.now()).duration_since(before).unwrap_or_default();
        let is_old = found.age > wanted + SECOND;
        if is_old {
            locked(&self.aside).insert(digest);
        }
        Ok(is_old)
    }

    pub(crate) async fn bring_back(&self, digest: Digest) -> Result<(), VaultError> {
        locked(&self.aside).remove(&digest);
        match &self.before {
            Some(before) => blocking(before, move |before| before.bring_back(digest)).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn discard(&self, digest: Digest) -> Result<(), VaultError> {
        let _turn = self.turn(digest).await;
        // It is aside no longer if it was put here meanwhile.
        if locked(&self.aside).remove(&digest) {
            self.remove(digest).await?;
        }
        match &self.before {
            Some(before) => blocking(before, move |before| before.discard(digest)).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn aside(&self) -> Result<Vec<Digest>, VaultError> {
        let mut all: Vec<Digest> = locked(&self.aside).iter().copied().collect();
        if let Some(before) = &self.before {
            all.extend(blocking(before, Directory::aside).await?);
        }
        Ok(all)
    }

    /// Nothing is half written here: a blob is one request.
    pub(crate) async fn tidy(&self) -> Result<(), VaultError> {
        match &self.before {
            Some(before) => blocking(before, Directory::tidy).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, digest: Digest) -> Result<(), VaultError> {
        let doing = "remove a blob";
        let key = self.key(digest);
        locked(&self.in_doubt).insert(digest);
        let answered = self
            .ask(doing, Method::DELETE, Vec::new(), ANSWER_MAX, |bucket, credentials, now| {
                let action = bucket.delete_object(Some(credentials), &key);
                (action.sign_with_time(SIGNED_FOR, now).into(), Vec::new())
            })
            .await?;
        if !is_no_such_key(&answered) {
            self.good(doing, &answered)?;
        }
        locked(&self.in_doubt).remove(&digest);
        Ok(())
    }

    /// What the server says of a blob, if it has it.
    async fn look(&self, digest: Digest) -> Result<Option<Found>, VaultError> {
        let doing = "look for a blob";
        let key = self.key(digest);
        let answered = self
            .ask(doing, Method::HEAD, Vec::new(), ANSWER_MAX, |bucket, credentials, now| {
                let action = bucket.head_object(Some(credentials), &key);
                (action.sign_with_time(SIGNED_FOR, now).into(), Vec::new())
            })
            .await?;
        // There is no body that would tell more.
        if answered.status == 404 {
            return Ok(None);
        }
        self.good(doing, &answered)?;
        let time = |name| {
            let text = answered.header(name)?;
            jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
        };
        let Some(modified) = time("last-modified") else {
            return Err(self.wrong(doing, "it does not say since when it has it"));
        };
        let now = time("date").unwrap_or_else(|| self.clock.now());
        let age = Duration::try_from(now.duration_since(modified)).unwrap_or_default();
        let size = answered.header("content-length").and_then(|text| text.parse().ok());
        Ok(Some(Found { size, age }))
    }

    /// Asks, and once more if that may help.
    async fn ask(
        &self,
        doing: &'static str,
        method: Method,
        body: Vec<u8>,
        answer_max: usize,
        sign: impl Fn(
            &rusty_s3::Bucket,
            &rusty_s3::Credentials,
            &Timestamp,
        ) -> (String, Vec<(&'static str, String)>),
    ) -> Result<Answered, VaultError> {
        let mut waits = AGAIN_AFTER.iter();
        loop {
            let own = (self.credentials)().map_err(|why| self.wrong(doing, why))?;
            let secret = own.secret.expose_secret();
            let signer = match &own.token {
                Some(token) => {
                    rusty_s3::Credentials::new_with_token(own.key, secret, token.expose_secret())
                }
                None => rusty_s3::Credentials::new(own.key, secret),
            };
            let (url, headers) = sign(&self.bucket, &signer, &self.clock.now());
            let url = PlainUrl { path: path_of(&url).to_owned(), ..self.endpoint.clone() };
            let asked =
                Asked { method: method.clone(), url, headers, body: body.clone(), answer_max };
            let why = match self.http.exchange(asked).await {
                Ok(answered) => match &answered.body {
                    _ if answered.status >= 500 || answered.status == 429 => said(&answered),
                    Err(why) if method != Method::HEAD => format!("the answer was cut off: {why}"),
                    Ok(_) | Err(_) => {
                        *locked(&self.problem) = None;
                        return Ok(answered);
                    }
                },
                Err(failure) => failure.detail,
            };
            match waits.next() {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return Err(self.wrong(doing, why)),
            }
        }
    }

    fn good(&self, doing: &'static str, answered: &Answered) -> Result<(), VaultError> {
        match answered.status {
            200..300 => Ok(()),
            _ => Err(self.wrong(doing, said(answered))),
        }
    }

    fn wrong(&self, doing: &'static str, why: impl ToString) -> VaultError {
        let (place, why) = (self.place(), why.to_string());
        let error = VaultError::Bucket { doing, place, why };
        *locked(&self.problem) = Some(error.to_string());
        error
    }

    fn place(&self) -> String {
        format!("s3://{}", self.bucket.name())
    }

    fn key(&self, digest: Digest) -> String {
        format!("{}{digest}.zst", self.blobs(&self.name))
    }

    /// What the keys of the blobs below a name begin with.
    fn blobs(&self, name: &str) -> String {
        match &*self.prefix {
            "" => format!("{name}/blobs/"),
            prefix => format!("{prefix}/{name}/blobs/"),
        }
    }

    async fn turn(&self, digest: Digest) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[usize::from(digest.0[0]) % TURNS].lock().await
    }
}

//! Checkpoints and keys, in the forms of C2SP: `tlog-checkpoint` in a `signed-note`, by Ed25519.
//!
//! A key is trusted because the verifier was given it, or because a trusted one named it.

use std::io;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::chain::{HASH_LEN, Hash};
use crate::mac::write_private;

/// The signature type of Ed25519 in a signed note.
const ED25519_TYPE: u8 = 1;
const SEED_LEN: usize = 32;
/// Begins the line of a signature.
const DASH: &str = "\u{2014} ";
/// Begins what introduces a key.
const CHANGE: &str = "stratavore key change";
/// The longest note that is read.
const NOTE_MAX: usize = 64 << 10;

/// Why a note does not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it is no signed note")]
    Form,
    #[error("it is signed by no key that is trusted")]
    Unknown,
    #[error("its signature by the key {0} is wrong")]
    Wrong(String),
    #[error("the key {key} stands for sizes from {from} to {until}, and this is {size}")]
    OutOfTime { key: String, from: u64, until: u64, size: u64 },
}

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: [u8; 32],
}

impl PublicKey {
    /// The log that it signs for.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn hash(&self) -> [u8; 4] {
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update([b'\n', ED25519_TYPE]);
        hash.update(self.key);
        let digest: Hash = hash.finalize().into();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Eight hexadecimal digits that name it.
    pub fn id(&self) -> String {
        crate::hex(&self.hash())
    }

    /// `name+id+key`, as verifiers of signed notes take it.
    pub fn text(&self) -> String {
        format!("{}+{}+{}", self.name, self.id(), STANDARD.encode(typed(&self.key)))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = untyped(key)?;
        let key = Self { name: name.into(), key };
        (is_name(name) && key.id() == id).then_some(key)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && c != '+')
}

fn typed(key: &[u8; 32]) -> [u8; 33] {
    let mut bytes = [ED25519_TYPE; 33];
    bytes[1..].copy_from_slice(key);
    bytes
}

fn untyped(text: &str) -> Option<[u8; 32]> {
    match STANDARD.decode(text).ok()?.split_first()? {
        (&ED25519_TYPE, key) => key.try_into().ok(),
        _ => None,
    }
}

/// A key that signs.
pub struct PrivateKey {
    seed: [u8; SEED_LEN],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl PrivateKey {
    /// `None` if the name cannot stand in a note.
    pub fn new(name: &str, seed: [u8; SEED_LEN]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        let key = pair.public_key().as_ref().try_into().ok()?;
        is_name(name).then(|| Self { seed, pair, public: PublicKey { name: name.into(), key } })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn read(path: &Path) -> io::Result<Self> {
        let damaged = || io::Error::other(format!("{} holds no key", path.display()));
        let text = std::fs::read_to_string(path)?;
        let mut parts = text.trim().splitn(5, '+');
        let mut part = || parts.next().ok_or_else(damaged);
        if (part()?, part()?) != ("PRIVATE", "KEY") {
            return Err(damaged());
        }
        let (name, id, seed) = (part()?, part()?, part()?);
        let key = untyped(seed).and_then(|seed| Self::new(name, seed)).ok_or_else(damaged)?;
        if key.public.id() != id { Err(damaged()) } else { Ok(key) }
    }

    /// Keeps it in a file that only the owner reads.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let (name, id) = (&self.public.name, self.public.id());
        let text = format!("PRIVATE+KEY+{name}+{id}+{}\n", STANDARD.encode(typed(&self.seed)));
        write_private(path, text.as_bytes())
    }

    pub(crate) fn note(&self, text: &str) -> String {
        let mut signature = self.public.hash().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n{DASH}{} {}\n", self.public.name, STANDARD.encode(signature))
    }
}

/// What a log was when it was signed: its name, its size and the root of its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    pub fn signed(&self, key: &PrivateKey) -> String {
        let root = STANDARD.encode(self.root);
        key.note(&format!("{}\n{}\n{root}\n", self.origin, self.size))
    }

    /// Reads a checkpoint without asking who signed it.
    pub fn read(note: &str) -> Result<Self, NoteError> {
        let (text, _) = split(note)?;
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or(NoteError::Form);
        let (origin, size, root) = (line()?, line()?, line()?);
        let number: u64 = size.parse().map_err(|_| NoteError::Form)?;
        let root = STANDARD.decode(root).map_err(|_| NoteError::Form)?;
        let root: [u8; HASH_LEN] = root.try_into().map_err(|_| NoteError::Form)?;
        if number.to_string() != size || !is_name(origin) {
            return Err(NoteError::Form);
        }
        Ok(Self { origin: origin.into(), size: number, root })
    }
}

/// The text of a note, with its last line break, and its signatures.
pub(crate) fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_MAX || !note.ends_with('\n') {
        return Err(NoteError::Form);
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Form)?;
    Ok((&note[..=at], &note[at + 2..]))
}

/// A key that another one introduces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The size of the log from which on the new key stands.
    pub size: u64,
    pub new: PublicKey,
    /// The key that says so is no longer used then.
    pub replaces: bool,
}

impl KeyChange {
    pub fn signed(&self, old: &PrivateKey) -> String {
        let deed = if self.replaces { "replaces" } else { "joins" };
        old.note(&format!("{CHANGE}\n{deed}\n{}\n{}\n", self.size, self.new.text()))
    }

    fn read(note: &str) -> Result<Self, NoteError> {
        let (text, _) = split(note)?;
        let lines: Vec<&str> = text.lines().collect();
        let [CHANGE, deed @ ("replaces" | "joins"), size, new] = lines[..] else {
            return Err(NoteError::Form);
        };
        Ok(Self {
            size: size.parse().map_err(|_| NoteError::Form)?,
            new: PublicKey::parse(new).ok_or(NoteError::Form)?,
            replaces: deed == "replaces",
        })
    }
}

/// The keys that are trusted, each for the sizes that it may sign.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<Trusted>,
}

#[derive(Debug, Clone)]
struct Trusted {
    key: PublicKey,
    from: u64,
    until: u64,
}

impl Trust {
    /// `given` are trusted for what they are; of `changes` those that a trusted key has signed. The
    /// others are passed over: who has the database can add as many as they like.
    pub fn new(given: &[PublicKey], changes: &[String]) -> Self {
        let trusted = |key: &PublicKey| Trusted { key: key.clone(), from: 0, until: u64::MAX };
        let mut trust = Self { keys: given.iter().map(trusted).collect() };
        let mut changes: Vec<&String> = changes.iter().collect();
        loop {
            let before = changes.len();
            changes.retain(|note| !trust.learn(note));
            if changes.len() == before {
                return trust;
            }
        }
    }

    fn learn(&mut self, note: &str) -> bool {
        let Ok(change) = KeyChange::read(note) else { return false };
        let Ok(by) = self.signer(note, change.size) else { return false };
        if change.replaces {
            self.keys[by].until = self.keys[by].until.min(change.size);
        }
        if !self.keys.iter().any(|known| known.key == change.new) {
            self.keys.push(Trusted { key: change.new, from: change.size, until: u64::MAX });
        }
        true
    }

    /// Reads a checkpoint, if a trusted key has signed it.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::read(note)?;
        let by = self.signer(note, checkpoint.size)?;
        if self.keys[by].key.name != checkpoint.origin {
            Err(NoteError::Unknown)
        } else {
            Ok(checkpoint)
        }
    }

    /// False: it is signed by a key of another log.
    pub(crate) fn is_signed_for(
        &self,
        note: &str,
        origin: &str,
        size: u64,
    ) -> Result<bool, NoteError> {
        let by = self.signer(note, size)?;
        Ok(self.keys[by].key.name == origin)
    }

    /// Which of the keys has signed the note. Signatures of keys that are not known are passed over.
    fn signer(&self, note: &str, size: u64) -> Result<usize, NoteError> {
        let (text, signatures) = split(note)?;
        let mut failed = NoteError::Unknown;
        for line in signatures.lines() {
            let line = line.strip_prefix(DASH).ok_or(NoteError::Form)?;
            let (name, signature) = line.split_once(' ').ok_or(NoteError::Form)?;
            let signature = STANDARD.decode(signature).map_err(|_| NoteError::Form)?;
            let Some((hash, signature)) = signature.split_first_chunk::<4>() else {
                return Err(NoteError::Form);
            };
            let known = |known: &Trusted| known.key.name == name && known.key.hash() == *hash;
            let Some(at) = self.keys.iter().position(known) else { continue };
            let Trusted { key, from, until } = &self.keys[at];
            if UnparsedPublicKey::new(&ED25519, &key.key)
                .verify(text.as_bytes(), signature)
                .is_err()
            {
                return Err(NoteError::Wrong(key.id()));
            }
            if (*from..=*until).contains(&size) {
                return Ok(at);
            }
            failed = NoteError::OutOfTime { key: key.id(), from: *from, until: *until, size };
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new("stratavore/log", [seed; 32]).unwrap()
    }

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint { origin: "stratavore/log".into(), size, root: [3; 32] }
    }

    /// The example of the signed-note specification.
    #[test]
    fn a_key_of_the_specification_is_read() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key = PublicKey::parse(text).expect("it is one");
        assert_eq!(
            (key.name(), key.id().as_str(), key.text().as_str()),
            ("PeterNeumann", "c74f20a3", text)
        );
        let note = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(Trust::new(&[key], &[]).signer(note, 0), Ok(0));
    }

    #[test]
    fn a_checkpoint_stands_by_a_trusted_key_only() {
        let note = checkpoint(7).signed(&key(1));
        assert!(note.starts_with("stratavore/log\n7\n"));
        let trust = |seed: u8| Trust::new(&[key(seed).public().clone()], &[]);
        assert_eq!(trust(1).checkpoint(&note), Ok(checkpoint(7)));
        assert_eq!(trust(2).checkpoint(&note), Err(NoteError::Unknown));
        let edited = note.replacen("\n7\n", "\n8\n", 1);
        assert_eq!(trust(1).checkpoint(&edited), Err(NoteError::Wrong(key(1).public().id())));
        for odd in [
            "",
            "\n",
            "\n\n",
            "a\n\nb\n",
            &note[..note.len() - 1],
            &note.replace("\n7\n", "\n07\n"),
        ] {
            assert!(trust(1).checkpoint(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_key_is_introduced_by_one_that_is_trusted() {
        let change = |old: u8, new: u8, size: u64, replaces: bool| {
            KeyChange { size, new: key(new).public().clone(), replaces }.signed(&key(old))
        };
        let changes = [change(2, 3, 20, true), change(1, 2, 10, true), change(9, 8, 0, false)];
        let trust = Trust::new(&[key(1).public().clone()], &changes);
        let stands = |seed: u8, size: u64| trust.checkpoint(&checkpoint(size).signed(&key(seed)));
        assert!(stands(1, 10).is_ok() && stands(2, 10).is_ok() && stands(3, 99).is_ok());
        assert!(matches!(stands(1, 11), Err(NoteError::OutOfTime { .. })), "it was replaced");
        assert!(matches!(stands(3, 19), Err(NoteError::OutOfTime { .. })), "it is not that old");
        assert_eq!(stands(8, 5), Err(NoteError::Unknown), "nobody who is trusted named it");
        let both = Trust::new(&[key(1).public().clone()], &[change(1, 2, 10, false)]);
        assert!(both.checkpoint(&checkpoint(11).signed(&key(1))).is_ok(), "it was joined");
    }

    #[test]
    fn a_key_in_its_file_reads_back() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        key(5).write(&path).unwrap();
        assert_eq!(PrivateKey::read(&path).unwrap().public(), key(5).public());
        std::fs::write(&path, "PRIVATE+KEY+stratavore/log+00000000+AQ==\n").unwrap();
        assert!(PrivateKey::read(&path).is_err());
    }
}

//! What the vault promises: bytes come back as they were, or not at all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stratavore_core::transcript::Digest;
use stratavore_vault::{BLOB_MAX, Vault, VaultError, digest};
use tempfile::TempDir;
use tokio::task::JoinSet;

fn open() -> (TempDir, Vault) {
    let home = tempfile::tempdir().unwrap();
    let vault = Vault::open(home.path().join("vault")).unwrap();
    (home, vault)
}

fn file_of(home: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    home.join("vault/blobs").join(&name[..2]).join(format!("{name}.zst"))
}

fn make_old(path: &Path) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// After everything that is done now, and before what is done by then.
fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)
}

#[tokio::test]
async fn bytes_come_back_as_they_were_and_are_kept_once() {
    let (home, vault) = open();
    let text = b"{\"role\":\"user\",\"text\":\"hello\"}\n".repeat(3000);
    let noise: Vec<u8> =
        (0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for bytes in [Vec::new(), vec![0], text.clone(), noise] {
        let kept = vault.put(bytes.clone()).await.unwrap();
        assert_eq!(
            (kept.digest, kept.length, kept.is_old),
            (digest(&bytes), bytes.len() as u64, false)
        );
        let again = vault.put(bytes.clone()).await.unwrap();
        assert_eq!((again.digest, again.stored, again.is_old), (kept.digest, kept.stored, true));
        assert_eq!(vault.get(kept.digest).await.unwrap(), bytes);
        assert_eq!(fs::metadata(file_of(home.path(), kept.digest)).unwrap().len(), kept.stored);
    }
    let kept = vault.put(text.clone()).await.unwrap();
    assert!(kept.stored * 10 < kept.length, "{kept:?} is hardly compressed");
    assert_eq!(fs::read_dir(home.path().join("vault/new")).unwrap().count(), 0);
    for path in [home.path().join("vault"), file_of(home.path(), kept.digest)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }
}

#[tokio::test]
async fn what_is_damaged_is_not_answered_and_is_mended_by_the_same_bytes() {
    let (home, vault) = open();
    let bytes = b"something to keep ".repeat(100);
    let kept = vault.put(bytes.clone()).await.unwrap();
    let path = file_of(home.path(), kept.digest);
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    let other = zstd_of(b"something else").await;
    let mut wrong: Vec<Vec<u8>> = (0..good.len()).map(flipped).collect();
    wrong.extend([Vec::new(), good[..good.len() - 1].to_vec(), other]);
    let mut noticed = 0;
    for bad in wrong {
        fs::write(&path, &bad).unwrap();
        match vault.get(kept.digest).await {
            // A bit of the frame that means nothing.
            Ok(read) => assert_eq!(read, bytes),
            Err(VaultError::Damaged { digest, .. }) => {
                assert_eq!(digest, kept.digest);
                noticed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(noticed > good.len() / 2, "{noticed} of {}", good.len());
    fs::write(&path, b"rubbish").unwrap();
    assert!(!vault.put(bytes.clone()).await.unwrap().is_old);
    assert_eq!(vault.get(kept.digest).await.unwrap(), bytes);
    fs::remove_file(&path).unwrap();
    let gone = vault.get(kept.digest).await;
    assert!(matches!(gone, Err(VaultError::Missing(digest)) if digest == kept.digest), "{gone:?}");
}

/// A frame that zstd takes, of bytes that are others.
async fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    let (home, vault) = open();
    let kept = vault.put(bytes.to_vec()).await.unwrap();
    fs::read(file_of(home.path(), kept.digest)).unwrap()
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let (_home, vault) = open();
    let long = vault.put(vec![7; BLOB_MAX + 1]).await;
    assert!(matches!(long, Err(VaultError::TooLong(length)) if length == BLOB_MAX + 1), "{long:?}");
    // A file that would unpack to more than there may be.
    let most = vault.put(vec![7; BLOB_MAX]).await.unwrap();
    assert_eq!(vault.get(most.digest).await.unwrap().len(), BLOB_MAX);
}

#[tokio::test]
async fn all_are_listed_in_pages() {
    let (home, vault) = open();
    let mut all = BTreeSet::new();
    for n in 0..100u32 {
        all.insert(vault.put(n.to_le_bytes().to_vec()).await.unwrap().digest);
    }
    fs::write(home.path().join("vault/blobs/README"), "not ours").ok();
    fs::remove_file(home.path().join("vault/blobs/README")).unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = vault.list(after, 7).await.unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        listed.extend(page);
    }
    assert_eq!(listed, all.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn only_what_is_old_is_set_aside_and_it_can_be_brought_back() {
    let (home, vault) = open();
    let kept = vault.put(b"bytes".to_vec()).await.unwrap();
    let path = file_of(home.path(), kept.digest);
    assert!(!vault.set_aside(kept.digest, old()).await.unwrap(), "it is young");
    make_old(&path);
    assert!(vault.set_aside(kept.digest, old()).await.unwrap());
    assert_eq!(vault.aside().await.unwrap(), [kept.digest]);
    assert_eq!(vault.get(kept.digest).await.unwrap(), b"bytes", "it is still read");
    vault.bring_back(kept.digest).await.unwrap();
    assert!(path.exists());

    // To put it here again makes it young.
    make_old(&path);
    assert!(vault.put(b"bytes".to_vec()).await.unwrap().is_old);
    assert!(!vault.set_aside(kept.digest, old()).await.unwrap());

    // Put here while it is aside: it is here anew, whatever becomes of the other.
    make_old(&path);
    assert!(vault.set_aside(kept.digest, old()).await.unwrap());
    assert!(!vault.put(b"bytes".to_vec()).await.unwrap().is_old);
    vault.discard(kept.digest).await.unwrap();
    assert_eq!(vault.get(kept.digest).await.unwrap(), b"bytes");
    assert!(!vault.set_aside(digest(b"never"), old()).await.unwrap());
    vault.discard(digest(b"never")).await.unwrap();
}

/// Whoever has been told that bytes are kept can read them, whatever is tidied up at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_to_tidying_up() {
    let (home, vault) = open();
    let bytes = b"the same bytes again and again".to_vec();
    let digest = digest(&bytes);
    let path = file_of(home.path(), digest);
    let mut set_aside = 0;
    for _ in 0..200 {
        vault.put(bytes.clone()).await.unwrap();
        make_old(&path);
        let mut both = JoinSet::new();
        let (putting, tidying) = (vault.clone(), vault.clone());
        let again = bytes.clone();
        both.spawn(async move {
            putting.put(again).await.unwrap();
            false
        });
        both.spawn(async move {
            let is_aside = tidying.set_aside(digest, old()).await.unwrap();
            if is_aside {
                tidying.discard(digest).await.unwrap();
            }
            is_aside
        });
        set_aside += both.join_all().await.into_iter().filter(|aside| *aside).count();
        assert_eq!(vault.get(digest).await.unwrap(), bytes);
    }
    // The control: some were removed, so there was something to be lost.
    assert!(set_aside > 0, "nothing was ever removed");
}

#[tokio::test]
async fn what_was_half_written_is_removed() {
    let (home, vault) = open();
    let half = home.path().join("vault/new/half");
    fs::write(&half, b"x").unwrap();
    vault.tidy().await.unwrap();
    assert!(!half.exists());
}

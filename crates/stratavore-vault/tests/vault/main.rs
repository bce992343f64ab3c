//! What the vault promises, wherever it is: bytes come back as they were, or not at all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[cfg(feature = "s3")]
mod bucket;
mod directory;
mod place;

use std::collections::BTreeSet;

use stratavore_vault::{BLOB_MAX, VaultError, digest};
use tokio::task::JoinSet;

use crate::place::{At, old, on_each_place};

on_each_place! {
    async fn bytes_come_back_as_they_were_and_are_kept_once(at: At) {
        let vault = &at.vault;
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
            assert_eq!(at.packed(kept.digest).unwrap().len() as u64, kept.stored);
        }
        let kept = vault.put(text.clone()).await.unwrap();
        assert!(kept.stored * 10 < kept.length, "{kept:?} is hardly compressed");
    }

    async fn what_is_damaged_is_not_answered_and_is_mended_by_the_same_bytes(at: At) {
        let vault = &at.vault;
        let bytes = b"something to keep ".repeat(100);
        let kept = vault.put(bytes.clone()).await.unwrap();
        let good = at.packed(kept.digest).unwrap();
        let flipped = |at: usize| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            bad
        };
        // A frame that is good, of bytes that are others.
        let other = vault.put(b"something else".to_vec()).await.unwrap();
        let other = at.packed(other.digest).unwrap();
        let mut wrong: Vec<Vec<u8>> = (0..good.len()).map(flipped).collect();
        wrong.extend([Vec::new(), good[..good.len() - 1].to_vec(), other]);
        let mut noticed = 0;
        for bad in wrong {
            at.overwrite(kept.digest, &bad);
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
        at.overwrite(kept.digest, b"rubbish");
        assert!(!vault.put(bytes.clone()).await.unwrap().is_old);
        assert_eq!(vault.get(kept.digest).await.unwrap(), bytes);
        at.erase(kept.digest);
        let gone = vault.get(kept.digest).await;
        assert!(matches!(gone, Err(VaultError::Missing(digest)) if digest == kept.digest), "{gone:?}");
    }

    async fn what_is_too_long_is_refused(at: At) {
        let vault = &at.vault;
        let long = vault.put(vec![7; BLOB_MAX + 1]).await;
        assert!(matches!(long, Err(VaultError::TooLong(length)) if length == BLOB_MAX + 1), "{long:?}");
        // A file that would unpack to more than there may be.
        let most = vault.put(vec![7; BLOB_MAX]).await.unwrap();
        assert_eq!(vault.get(most.digest).await.unwrap().len(), BLOB_MAX);
    }

    async fn all_are_listed_in_pages(at: At) {
        let vault = &at.vault;
        let mut all = BTreeSet::new();
        for n in 0..100u32 {
            all.insert(vault.put(n.to_le_bytes().to_vec()).await.unwrap().digest);
        }
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

    async fn only_what_is_old_is_set_aside_and_it_can_be_brought_back(at: At) {
        let vault = &at.vault;
        let kept = vault.put(b"bytes".to_vec()).await.unwrap();
        assert!(!vault.set_aside(kept.digest, old()).await.unwrap(), "it is young");
        at.make_old(kept.digest);
        assert!(vault.set_aside(kept.digest, old()).await.unwrap());
        assert_eq!(vault.aside().await.unwrap(), [kept.digest]);
        assert_eq!(vault.get(kept.digest).await.unwrap(), b"bytes", "it is still read");
        vault.bring_back(kept.digest).await.unwrap();
        vault.discard(kept.digest).await.unwrap();
        assert!(at.packed(kept.digest).is_some());

        // To put it here again makes it young.
        at.make_old(kept.digest);
        assert!(vault.put(b"bytes".to_vec()).await.unwrap().is_old);
        assert!(!vault.set_aside(kept.digest, old()).await.unwrap());

        // Put here while it is aside: it is here anew, whatever becomes of the other.
        at.make_old(kept.digest);
        assert!(vault.set_aside(kept.digest, old()).await.unwrap());
        assert!(!vault.put(b"bytes".to_vec()).await.unwrap().is_old);
        vault.discard(kept.digest).await.unwrap();
        assert_eq!(vault.get(kept.digest).await.unwrap(), b"bytes");

        // And what is discarded is gone.
        at.make_old(kept.digest);
        assert!(vault.set_aside(kept.digest, old()).await.unwrap());
        vault.discard(kept.digest).await.unwrap();
        assert_eq!(at.packed(kept.digest), None);
        assert!(!vault.set_aside(digest(b"never"), old()).await.unwrap());
        vault.discard(digest(b"never")).await.unwrap();
    }

    /// Whoever has been told that bytes are kept can read them, whatever is tidied up at the same time.
    async fn nothing_is_lost_to_tidying_up(at: At) {
        let vault = &at.vault;
        let bytes = b"the same bytes again and again".to_vec();
        let digest = digest(&bytes);
        let mut set_aside = 0;
        for _ in 0..200 {
            vault.put(bytes.clone()).await.unwrap();
            at.make_old(digest);
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
}

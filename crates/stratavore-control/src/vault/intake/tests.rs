//! A file that grows, is cut, replaced and rewritten comes back as it was, each of its versions.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use stratavore_store::testing::TestStore;

use super::*;
use crate::rig::{Dice, Rig, at, both};

impl Rig {
    fn path(&self) -> PathBuf {
        self.home.path().join("t.jsonl")
    }

    fn append(&self, bytes: &[u8]) {
        let file = fs::OpenOptions::new().append(true).create(true).open(self.path());
        file.unwrap().write_all(bytes).unwrap();
    }

    async fn take_in(&self, to_its_end: bool) -> Taken {
        let care = if to_its_end { Care::ToItsEnd } else { Care::WhileItGrows };
        self.take_in_with(care).await
    }

    async fn take_in_with(&self, care: Care) -> Taken {
        self.intake.take_in(self.session, &self.path(), care, at(1)).await.unwrap()
    }

    /// The bytes of each version, the oldest first.
    async fn read_back(&self) -> Vec<Vec<u8>> {
        let mut versions = Vec::new();
        for transcript in self.db.store().transcript_list(self.session).await.unwrap() {
            let mut bytes = Vec::new();
            for kept in self.db.store().transcript_segments(transcript.id).await.unwrap() {
                assert_eq!(kept.segment.offset, bytes.len() as u64, "a gap");
                bytes.extend(self.intake.piece(&kept).await.unwrap());
            }
            assert_eq!(bytes.len() as u64, transcript.size);
            versions.push(bytes);
        }
        versions
    }
}

/// Lines that compress as transcripts do.
fn text(dice: &mut Dice, length: u64) -> Vec<u8> {
    let mut text = Vec::new();
    while (text.len() as u64) < length {
        writeln!(text, "{{\"n\":{},\"text\":\"some words\"}}", dice.below(1 << 40)).unwrap();
    }
    text.truncate(length as usize);
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_changes_is_another_version_and_one_that_does_not_is_none() {
    both(async |rig| {
        let name = "opencode:ses_1.json";
        let take = async |bytes: &[u8], second: i64| {
            rig.intake.take_in_document(rig.session, name, bytes, at(second)).await.unwrap()
        };
        let first = text(&mut Dice(1), 3 << 20);
        let mut second = first.clone();
        // As long, and another one in its middle.
        second[2 << 20] ^= 1;
        let size = first.len() as u64;
        assert_eq!(take(&first, 1).await, Taken { bytes: size, size, version: 1 });
        assert_eq!(take(&first, 5).await, Taken { bytes: 0, size, version: 1 });
        let latest = rig.db.store().transcript_latest(rig.intake.node, name).await.unwrap();
        assert_eq!(latest.unwrap().updated_at, at(5), "it was looked at");
        assert_eq!(take(&second, 6).await, Taken { bytes: size, size, version: 2 });
        let shorter = &first[..100];
        assert_eq!(take(shorter, 7).await, Taken { bytes: 100, size: 100, version: 3 });
        assert_eq!(rig.read_back().await, [first.clone(), second, shorter.to_vec()]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_waits_until_it_is_more_or_the_end() {
    both(async |rig| {
        assert_eq!(rig.take_in(true).await, Taken::default(), "there is no file");
        rig.append(&[b'x'; 1000]);
        assert_eq!(rig.take_in(false).await.bytes, 0);
        assert_eq!(
            rig.take_in_with(Care::Now).await,
            Taken { bytes: 1000, size: 1000, version: 1 }
        );
        assert_eq!(rig.take_in(true).await.bytes, 0);
        rig.append(&vec![b'y'; PIECE_MIN as usize]);
        assert_eq!(rig.take_in(false).await.bytes, PIECE_MIN);
        fs::remove_file(rig.path()).unwrap();
        assert_eq!(rig.take_in(true).await.size, 1000 + PIECE_MIN, "what is gone stays here");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_growth_comes_back_as_it_was_and_in_few_blobs() {
    both(async |rig| {
        let seed = 7;
        let mut dice = Dice(seed);
        let mut whole = Vec::new();
        for _ in 0..60 {
            let length = match dice.below(10) {
                0..6 => dice.below(100_000),
                6..9 => dice.below(300),
                _ => dice.below(1 << 20),
            };
            let more = text(&mut dice, length);
            rig.append(&more);
            whole.extend(more);
            let to_its_end = dice.below(4) == 0;
            rig.take_in(to_its_end).await;
        }
        rig.take_in(true).await;
        assert!(rig.read_back().await == [whole.clone()], "seed {seed}");
        let kept = &rig.db.store().transcript_list(rig.session).await.unwrap()[0];
        let pieces = rig.db.store().transcript_segments(kept.id).await.unwrap().len();
        assert!(pieces < 32, "{pieces} pieces of {} KB", whole.len() >> 10);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_replaced_or_rewritten_is_a_new_version() {
    both(async |rig| {
        let mut dice = Dice(3);
        let first = text(&mut dice, 200_000);
        rig.append(&first);
        rig.take_in(true).await;
        // Cut short.
        let cut = first[..50_000].to_vec();
        fs::write(rig.path(), &cut).unwrap();
        assert_eq!(rig.take_in(true).await.version, 2);
        // Another file under the old name, which begins alike.
        let moved = rig.home.path().join("new");
        let replaced = [&cut[..], &text(&mut dice, 10_000)].concat();
        fs::write(&moved, &replaced).unwrap();
        fs::rename(&moved, rig.path()).unwrap();
        assert_eq!(rig.take_in(true).await.version, 3);
        // Rewritten in place, longer: the beginning is another one.
        let mut rewritten = replaced.clone();
        rewritten[10] ^= 1;
        rewritten.extend(text(&mut dice, 90_000));
        fs::write(rig.path(), &rewritten).unwrap();
        assert_eq!(rig.take_in(false).await.version, 4);
        rig.take_in(true).await;
        // In the middle, where only who compares all of it looks.
        let mut inside = rewritten.clone();
        rig.append(&text(&mut dice, 1_500_000));
        rig.take_in(true).await;
        let grown = fs::read(rig.path()).unwrap();
        inside.extend(&grown[rewritten.len()..]);
        inside[70_000] ^= 1;
        fs::write(rig.path(), &inside).unwrap();
        assert_eq!(
            rig.take_in_with(Care::Now).await.version,
            4,
            "the control: a quick look sees nothing"
        );
        assert_eq!(rig.take_in(true).await.version, 5);
        assert!(rig.read_back().await == [first, cut, replaced, grown, inside]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_daemons_and_deaths_between_blob_and_row_lose_and_double_nothing() {
    both(async |rig| {
        let other = Intake { store: rig.db.another().await, ..rig.intake.clone() };
        let mut dice = Dice(11);
        let mut whole = Vec::new();
        for _ in 0..20 {
            let length = dice.below(200_000);
            let more = text(&mut dice, length);
            rig.append(&more);
            whole.extend(more);
            // One that died after it had put a piece there, and before it said so.
            let end = whole.len() - dice.below(whole.len() as u64 + 1) as usize;
            rig.intake.put(whole[end..].to_vec()).await.unwrap();
            let path = rig.path();
            let (a, b) = tokio::join!(
                rig.intake.take_in(rig.session, &path, Care::ToItsEnd, at(1)),
                other.take_in(rig.session, &path, Care::ToItsEnd, at(1)),
            );
            a.unwrap();
            b.unwrap();
        }
        assert!(rig.read_back().await == [whole]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_is_refused() {
    let rig = Rig::new(TestStore::sqlite().await).await;
    let pipe = rig.home.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    for path in [pipe, rig.home.path().to_owned(), "/dev/zero".into()] {
        let refused = rig.intake.take_in(rig.session, &path, Care::ToItsEnd, at(1)).await;
        assert!(matches!(refused, Err(Error::Absent { .. })), "{path:?}: {refused:?}");
    }
}

/// All files of blobs that there are.
fn blobs(rig: &Rig) -> Vec<PathBuf> {
    let directories = fs::read_dir(rig.home.path().join("vault/blobs")).unwrap().flatten();
    let files = directories.flat_map(|directory| fs::read_dir(directory.path()).unwrap().flatten());
    files.map(|file| file.path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_names_is_removed_and_nothing_else() {
    both(async |rig| {
        let mut dice = Dice(21);
        let mut whole = Vec::new();
        // So many that the first ones are merged.
        for _ in 0..40 {
            let more = text(&mut dice, 5000);
            rig.append(&more);
            whole.extend(more);
            rig.take_in_with(Care::Now).await;
        }
        // One whose row was never written, and one that was set aside by who died then.
        rig.intake.put(b"of nobody".to_vec()).await.unwrap();
        let named = rig.db.store().transcript_list(rig.session).await.unwrap();
        let named = rig.db.store().transcript_segments(named[0].id).await.unwrap();
        let far: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        assert!(rig.intake.vault.set_aside(named[0].segment.blob, far.into()).await.unwrap());

        let before = blobs(&rig).len();
        let never = || false;
        // Young ones stay: somebody may be about to name them. What was set aside and is named is back.
        assert_eq!(rig.intake.remove_unnamed(at(0), &never).await.unwrap(), 0);
        assert_eq!(blobs(&rig).len(), before + 1);
        assert!(rig.read_back().await == [whole.clone()]);

        let removed = rig.intake.remove_unnamed(far, &never).await.unwrap();
        assert!(removed > 16, "{removed} of {before}");
        assert_eq!(blobs(&rig).len(), named.len());
        assert!(rig.read_back().await == [whole]);
        assert_eq!(rig.intake.remove_unnamed(far, &never).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_has_a_file_of_another_one_only_if_it_has_every_byte_of_it() {
    both(async |rig| {
        // Of several pieces.
        let whole = text(&mut Dice(7), 3 << 20);
        rig.append(&whole);
        let size = rig.take_in(true).await.size;
        assert_eq!(size, whole.len() as u64);
        let there = rig.home.path().join("there.jsonl");
        let has = async |is_over: bool| {
            let kept = rig.db.store().transcript_list(rig.session).await.unwrap();
            let segments = rig.db.store().transcript_segments(kept[0].id).await.unwrap();
            assert!(segments.len() > 1);
            holds(&there, size, segments, is_over).await.unwrap()
        };
        assert!(!has(false).await, "there is none");
        fs::write(&there, &whole).unwrap();
        assert!(has(true).await);
        for at in [0, 1 << 20, whole.len() - 1] {
            let mut other = whole.clone();
            other[at] ^= 1;
            fs::write(&there, &other).unwrap();
            assert!(!has(false).await, "byte {at} is another one");
        }
        fs::write(&there, &whole[..whole.len() - 1]).unwrap();
        assert!(!has(false).await, "one is missing");
        // It may have grown since, until it is over.
        fs::write(&there, [&whole[..], b"more"].concat()).unwrap();
        assert!(has(false).await && !has(true).await);
    })
    .await;
}

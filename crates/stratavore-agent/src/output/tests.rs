use proptest::prelude::*;
use stratavore_core::Timestamp;

use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

type Bytes = Vec<(u64, u8)>;
type Gaps = Vec<(u64, u64)>;

/// Everything that can be read from `from`: the bytes by offset, and what is told as missing.
fn read_all(dir: &Path, from: u64, max: usize) -> (Bytes, Gaps) {
    let mut reader = OutputReader::new(dir.into());
    let (mut at, mut bytes, mut gaps) = (from, Vec::new(), Vec::new());
    loop {
        match reader.read(at, max).unwrap() {
            Chunk::Data { offset, data } => {
                assert_eq!(offset, at);
                bytes.extend(data.iter().enumerate().map(|(i, byte)| (offset + i as u64, *byte)));
                at += data.len() as u64;
            }
            Chunk::Gap { from, to } => {
                assert_eq!(from, at);
                gaps.push((from, to));
                at = to;
            }
            Chunk::End => return (bytes, gaps),
        }
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Append(Vec<u8>),
    Reopen,
    /// The disk refuses to take anything for this many bytes.
    Lose(u64),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Deed::Append),
        1 => Just(Deed::Reopen),
        1 => (1u64..30).prop_map(Deed::Lose),
    ];
    proptest::collection::vec(deed, 0..60)
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(deeds in deeds(), segment in 1u64..30, max in 1u64..200, step in 1usize..50) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_path_buf();
        let mut log = OutputLog::open(dir.clone(), segment, max, None).unwrap();
        let mut model: Vec<(u64, u8)> = Vec::new();
        let mut end = 0;
        for (nth, deed) in deeds.into_iter().enumerate() {
            match deed {
                Deed::Append(data) => {
                    let appended = log.append(&data, at(nth as i64 * 100_000));
                    prop_assert_eq!(appended, Appended::Recorded);
                    model.extend(data.iter().enumerate().map(|(i, byte)| (end + i as u64, *byte)));
                    end += data.len() as u64;
                }
                Deed::Reopen => {
                    log = OutputLog::open(dir.clone(), segment, max, Some(end)).unwrap();
                }
                Deed::Lose(bytes) => {
                    end += bytes;
                    log = OutputLog::open(dir.clone(), segment, max, Some(end)).unwrap();
                }
            }
            prop_assert_eq!(log.end(), end);
        }
        let (bytes, gaps) = read_all(&dir, 0, step);
        let kept = bytes.first().map_or(end, |(offset, _)| *offset);
        let expected: Vec<_> = model.iter().copied().filter(|(offset, _)| *offset >= kept).collect();
        prop_assert_eq!(&bytes, &expected, "gaps {:?}", gaps);
        // What is trimmed is only what has to be.
        let size: u64 = bytes.len() as u64;
        prop_assert!(size <= max.max(segment), "{} bytes kept of {}", size, max);
        if kept > 0 && !model.is_empty() && bytes.len() < model.len() {
            prop_assert!(size + 2 * segment > max, "only {} bytes kept of {}", size, max);
        }
        // Reading from the middle is the end of reading from the start.
        let middle = end / 2;
        let (rest, _) = read_all(&dir, middle, step);
        let expected: Vec<_> = bytes.iter().copied().filter(|(offset, _)| *offset >= middle).collect();
        prop_assert_eq!(rest, expected);
    }
}

#[test]
fn nothing_recorded_reads_as_the_end() {
    let home = tempfile::tempdir().unwrap();
    let mut reader = OutputReader::new(home.path().join("absent"));
    assert_eq!(reader.read(0, 10).unwrap(), Chunk::End);
    assert_eq!(reader.bounds().unwrap(), (0, 0));
    assert_eq!(reader.offset_at(at(5)).unwrap(), None);
}

#[test]
fn output_is_found_by_time() {
    let home = tempfile::tempdir().unwrap();
    let mut log = OutputLog::open(home.path().into(), 20, 1000, None).unwrap();
    for second in 0..10 {
        for tenth in 0..5 {
            log.append(b"abc", at(second * 1_000_000 + tenth * 100_000));
        }
    }
    let reader = OutputReader::new(home.path().into());
    for second in 0..10 {
        let wanted = second * 15;
        let found = reader.offset_at(at(second as i64 * 1_000_000)).unwrap().unwrap();
        assert!(found <= wanted && wanted - found < 15, "second {second}: {found} for {wanted}");
    }
    assert_eq!(reader.offset_at(at(-1)).unwrap(), None);
    assert_eq!(reader.bounds().unwrap(), (0, 150));
}

#[test]
fn a_full_disk_leaves_a_gap_and_is_recovered_from() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("output");
    // A directory that is not there refuses every write, as a full disk does.
    let mut log = OutputLog::open(dir.clone(), 100, 1000, None).unwrap();
    assert!(matches!(log.append(b"lost", at(0)), Appended::Lost(Some(_))));
    assert_eq!(log.append(b"lost too", at(1)), Appended::Lost(None));
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(log.append(b"not yet tried", at(2)), Appended::Lost(None));
    assert_eq!(log.missing_at_end().map(|missing| (missing.from, missing.to)), Some((0, 25)));
    let Appended::Recovered(missing) = log.append(b"back", at(1_000_000)) else {
        panic!("not recovered")
    };
    assert_eq!((missing.from, missing.to), (0, 25));
    assert_eq!(log.missing_at_end(), None);
    let (bytes, gaps) = read_all(&dir, 0, 7);
    assert_eq!(bytes.iter().map(|(_, byte)| *byte).collect::<Vec<_>>(), b"back");
    assert_eq!(gaps, [(0, 25)]);
}

#[test]
fn strict_recording_takes_all_or_says_how_much() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("output");
    let mut log = OutputLog::open(dir.clone(), 4, 1000, None).unwrap();
    assert!(matches!(log.append_strictly(b"waits", at(0)), (0, Some(_))));
    assert_eq!(log.end(), 0);
    std::fs::create_dir(&dir).unwrap();
    assert!(matches!(log.append_strictly(b"waits", at(1)), (5, None)));
    let (bytes, gaps) = read_all(&dir, 0, 7);
    assert_eq!(bytes.iter().map(|(_, byte)| *byte).collect::<Vec<_>>(), b"waits");
    assert!(gaps.is_empty());
}

//! Verifying: every record against the one before it, and the whole against checkpoints.
//!
//! The chain alone proves nothing to who fears that the whole database was rewritten. Checkpoints
//! that were kept elsewhere do: what is before one of them cannot change, end earlier, or be that of
//! another log.
//!
//! A record whose older part was moved into files begins where a signed note says. Those files are
//! exports as well: one after the other they are one record.
//!
//! Records are hashed on several threads: each line names the hash that its successor builds on.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use memchr::{memchr, memrchr};

use crate::chain::{Frontier, Hash, genesis, leaf_in};
use crate::export::Record;
use crate::{Line, MacKey, PublicKey, Trim, Trust};

/// What is read at once, of each thread.
const BLOCK: usize = 2 << 20;

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of the first record that does not fit, if it is one.
    pub position: Option<u64>,
    pub what: String,
}

impl Fault {
    fn at(position: u64, what: impl Into<String>) -> Self {
        Self { position: Some(position), what: what.into() }
    }

    fn of_whole(what: impl Into<String>) -> Self {
        Self { position: None, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "position {position}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Fault {}

/// What a verifier brings along.
#[derive(Clone, Default)]
pub struct Checks {
    /// Keys that are trusted. Without any, those of the export are, which proves only that it is one
    /// piece.
    pub keys: Vec<PublicKey>,
    /// Keys that others introduce, as signed notes.
    pub changes: Vec<String>,
    /// Checkpoints that were kept elsewhere: where each one is from, and its note.
    pub checkpoints: Vec<(String, String)>,
    /// The key of a daemon's codes, kept since a day: what it wrote since is checked too.
    pub mac: Option<MacKey>,
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub origin: String,
    /// How many records were verified.
    pub records: u64,
    /// Those up to here were moved into files, which were not verified.
    pub trimmed: u64,
    /// Different sizes at which the root was compared with a signed one.
    pub checkpoints: u64,
    /// The last position that a checkpoint covers.
    pub covered: u64,
    /// Codes that were checked.
    pub macs: u64,
    /// False: no key was brought along, and those of the export were believed.
    pub keys_were_given: bool,
    /// Checkpoints that were brought along.
    pub given: u64,
}

/// Takes records in their order.
pub struct Verifier {
    last: Hash,
    next: u64,
    tree: Frontier,
    /// Hashes that the tree has not taken in yet.
    pending: Vec<Hash>,
    wanted: BTreeMap<u64, (Hash, String)>,
    mac: Option<MacKey>,
    report: Report,
}

impl Verifier {
    /// `found` are the checkpoints that came with the records; `trim` is where these begin, if that
    /// is not at the beginning.
    pub fn new(
        origin: &str,
        trust: &Trust,
        trim: Option<&str>,
        found: &[String],
        given: &[(String, String)],
        mac: Option<MacKey>,
    ) -> Result<Self, Fault> {
        let report =
            Report { origin: origin.into(), given: given.len() as u64, ..Report::default() };
        let mut verifier = Self {
            last: genesis(origin),
            next: 1,
            tree: Frontier::default(),
            pending: Vec::new(),
            wanted: BTreeMap::new(),
            mac,
            report,
        };
        if let Some(note) = trim {
            let trim = trimmed(origin, trust, note)?;
            verifier.report.trimmed = trim.upto;
            (verifier.last, verifier.next, verifier.tree) =
                (trim.hash, trim.upto + 1, trim.frontier);
        }
        let given = given.iter().map(|(from, note)| (from.as_str(), note.as_str()));
        verifier.want(trust, given)?;
        verifier.want(trust, found.iter().map(|note| ("the record", note.as_str())))?;
        Ok(verifier)
    }

    /// Takes in checkpoints that what comes has to fit. Those of what came before are compared with
    /// what is known of it.
    fn want<'n>(
        &mut self,
        trust: &Trust,
        notes: impl Iterator<Item = (&'n str, &'n str)>,
    ) -> Result<(), Fault> {
        let origin = self.report.origin.clone();
        for (from, note) in notes {
            let checkpoint = trust
                .checkpoint(note)
                .map_err(|why| Fault::of_whole(format!("a checkpoint in {from}: {why}")))?;
            let (size, root) = (checkpoint.size, checkpoint.root);
            if checkpoint.origin != origin {
                let other = checkpoint.origin.escape_debug();
                return Err(Fault::of_whole(format!(
                    "the checkpoint of size {size} in {from} is of another log, {other}"
                )));
            }
            match self.wanted.get(&size) {
                Some((known, whence)) if *known != root => {
                    return Err(Fault::at(
                        size,
                        format!(
                            "two signed checkpoints contradict each other, in {whence} and in {from}"
                        ),
                    ));
                }
                None if size > self.tree.size() => {
                    self.wanted.insert(size, (root, from.to_owned()));
                }
                None if size == self.tree.size() && self.tree.root() != root => {
                    return Err(not_signed(size, from));
                }
                // What is in files is compared where they are verified.
                Some(_) | None => {}
            }
            self.report.covered = self.report.covered.max(size);
        }
        Ok(())
    }

    /// Goes on with another export, which has to begin where this one has ended.
    fn go_on(&mut self, trust: &Trust, head: &Head) -> Result<(), Fault> {
        self.take_pending()?;
        let (origin, size) = (self.report.origin.clone(), self.tree.size());
        if head.origin.as_ref() != Some(&origin) {
            return Err(Fault::of_whole("the files are of different logs"));
        }
        let Some(note) = &head.trimmed else {
            return Err(Fault::at(size + 1, "here another file begins anew with the first record"));
        };
        let trim = trimmed(&origin, trust, note)?;
        if trim.upto != size {
            let what = format!("here a file is missing: the next one goes on after {}", trim.upto);
            return Err(Fault::at(size + 1, what));
        }
        if (trim.hash, &trim.frontier) != (self.last, &self.tree) {
            return Err(Fault::at(size + 1, "the next file goes on with another record"));
        }
        self.want(trust, head.checkpoints.iter().map(|note| ("the record", note.as_str())))
    }

    /// Takes whole lines of records in.
    pub fn lines(&mut self, block: &[u8], threads: usize) -> Result<(), Fault> {
        self.lines_while(block, threads, || ())
    }

    /// The same, and does something else while they are hashed.
    fn lines_while<R>(
        &mut self,
        block: &[u8],
        threads: usize,
        meanwhile: impl FnOnce() -> R,
    ) -> Result<R, Fault> {
        let parts = split(block, threads.max(1));
        let mut before = (self.next - 1, self.last);
        let mut jobs = Vec::with_capacity(parts.len());
        for part in parts {
            let (position, hash) = before;
            jobs.push((part, position, hash));
            let last = last_line(part);
            // A line that is none fails where it is read, before this is used.
            before = Record::parse(last).map_or(before, |record| (record.position, record.hash));
        }
        let mac = self.mac.clone();
        let pending = std::mem::take(&mut self.pending);
        let (hashed, done) = std::thread::scope(|scope| {
            let mac = mac.as_ref();
            let workers: Vec<_> = jobs
                .into_iter()
                .map(|(part, position, hash)| {
                    scope.spawn(move || hash_part(part, position, hash, mac))
                })
                .collect();
            let done = meanwhile();
            let taken = pending.iter().try_for_each(|hash| self.take(*hash));
            let joined: Vec<_> = workers
                .into_iter()
                .map(|worker| {
                    worker.join().unwrap_or_else(|_| Err(Fault::of_whole("a thread failed")))
                })
                .collect();
            taken.map(|()| (joined, done))
        })?;
        for part in hashed {
            let (hashes, macs) = part?;
            self.next += hashes.len() as u64;
            self.report.macs += macs;
            self.last = hashes.last().copied().unwrap_or(self.last);
            self.pending.extend(hashes);
        }
        Ok(done)
    }

    fn take(&mut self, hash: Hash) -> Result<(), Fault> {
        self.tree.append(hash);
        let size = self.tree.size();
        let Some((root, from)) = self.wanted.remove(&size) else { return Ok(()) };
        if self.tree.root() != root {
            return Err(not_signed(size, &from));
        }
        self.report.checkpoints += 1;
        Ok(())
    }

    fn take_pending(&mut self) -> Result<(), Fault> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().try_for_each(|hash| self.take(hash))
    }

    /// Nothing more comes.
    pub fn end(mut self) -> Result<Report, Fault> {
        self.take_pending()?;
        self.report.records = self.tree.size() - self.report.trimmed;
        match self.wanted.pop_last() {
            Some((size, (_, from))) if size > 0 => Err(Fault::at(
                self.tree.size() + 1,
                format!(
                    "the record ends before here, and a checkpoint in {from} has signed {size} records"
                ),
            )),
            Some(_) | None => Ok(self.report),
        }
    }

    /// Verifies a whole export.
    pub fn export(
        reader: impl Read,
        checks: &Checks,
        threads: usize,
    ) -> Result<Result<Report, Fault>, io::Error> {
        Self::exports([Ok(reader)], checks, threads)
    }

    /// Verifies exports of which each goes on where the one before has ended.
    pub fn exports<R: Read>(
        readers: impl IntoIterator<Item = io::Result<R>>,
        checks: &Checks,
        threads: usize,
    ) -> Result<Result<Report, Fault>, io::Error> {
        let mut verifier = None;
        for reader in readers {
            if let Err(fault) = take_export(&mut verifier, reader?, checks, threads)? {
                return Ok(Err(fault));
            }
        }
        let Some(verifier) = verifier else { return Ok(Err(Fault::of_whole(NO_EXPORT))) };
        let report = verifier.end();
        Ok(report.map(|report| Report { keys_were_given: !checks.keys.is_empty(), ..report }))
    }
}

/// Takes one export in, as the first or behind those before it.
fn take_export(
    verifier: &mut Option<Verifier>,
    mut reader: impl Read,
    checks: &Checks,
    threads: usize,
) -> Result<Result<(), Fault>, io::Error> {
    let (mut head, mut in_records) = (Head::default(), false);
    let wanted = (BLOCK * threads.max(1)) as u64;
    let mut read = |buffer: &mut Vec<u8>| reader.by_ref().take(wanted).read_to_end(buffer);
    let (mut buffer, mut next) = (Vec::new(), Vec::new());
    let mut came = read(&mut buffer)?;
    while !buffer.is_empty() {
        let Some(whole) = memrchr(b'\n', &buffer).filter(|_| came > 0) else {
            if came == 0 {
                return Ok(Err(Fault::of_whole("the last line is cut off")));
            }
            came = read(&mut buffer)?;
            continue;
        };
        let (mut block, rest) = buffer.split_at(whole + 1);
        while !in_records && !block.is_empty() {
            let end = memchr(b'\n', block).map_or(block.len(), |at| at + 1);
            if block.starts_with(b"{\"position\"") {
                if let Err(fault) = head.ended(verifier, checks) {
                    return Ok(Err(fault));
                }
                in_records = true;
            } else {
                if let Err(fault) = head.line(&block[..end]) {
                    return Ok(Err(fault));
                }
                block = &block[end..];
            }
        }
        next.clear();
        next.extend_from_slice(rest);
        came = match verifier.as_mut().filter(|_| in_records) {
            // The next block is read while this one is hashed.
            Some(verifier) => match verifier.lines_while(block, threads, || read(&mut next)) {
                Ok(came) => came?,
                Err(fault) => return Ok(Err(fault)),
            },
            None => read(&mut next)?,
        };
        std::mem::swap(&mut buffer, &mut next);
    }
    Ok(if in_records { Ok(()) } else { head.ended(verifier, checks) })
}

/// The lines before the records.
#[derive(Default)]
struct Head {
    origin: Option<String>,
    keys: Vec<PublicKey>,
    changes: Vec<String>,
    checkpoints: Vec<String>,
    trimmed: Option<String>,
}

impl Head {
    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        match serde_json::from_slice(line) {
            Ok(Line::StratavoreRecord { origin }) if self.origin.is_none() => {
                self.origin = Some(origin)
            }
            Ok(_) if self.origin.is_none() => return Err(Fault::of_whole(NO_EXPORT)),
            Ok(Line::StratavoreRecord { .. }) => {
                return Err(Fault::of_whole("it names its log twice"));
            }
            Ok(Line::Key(text)) => match PublicKey::parse(&text) {
                Some(key) => self.keys.push(key),
                None => return Err(Fault::of_whole("a public key in it cannot be read")),
            },
            Ok(Line::KeyChange(note)) => self.changes.push(note),
            Ok(Line::Checkpoint(note)) => self.checkpoints.push(note),
            Ok(Line::Trimmed(note)) => self.trimmed = Some(note),
            Err(_) => return Err(Fault::of_whole(NO_EXPORT)),
        }
        Ok(())
    }

    /// The records follow.
    fn ended(&self, verifier: &mut Option<Verifier>, checks: &Checks) -> Result<(), Fault> {
        let origin = self.origin.as_deref().ok_or_else(|| Fault::of_whole(NO_EXPORT))?;
        let given = if checks.keys.is_empty() { &self.keys } else { &checks.keys };
        let changes = [checks.changes.as_slice(), &self.changes].concat();
        let trust = Trust::new(given, &changes);
        match verifier {
            Some(verifier) => verifier.go_on(&trust, self),
            None => {
                let (trim, found) = (self.trimmed.as_deref(), &self.checkpoints);
                let (given, mac) = (&checks.checkpoints, checks.mac.clone());
                *verifier = Some(Verifier::new(origin, &trust, trim, found, given, mac)?);
                Ok(())
            }
        }
    }
}

fn trimmed(origin: &str, trust: &Trust, note: &str) -> Result<Trim, Fault> {
    let read = trust.trim(note);
    let trim = read.map_err(|why| Fault::of_whole(format!("where the record begins: {why}")))?;
    match trim.origin == origin {
        true => Ok(trim),
        false => Err(Fault::of_whole("it begins where another log does")),
    }
}

fn not_signed(size: u64, from: &str) -> Fault {
    let what = "what is recorded up to here is not what was signed in the checkpoint in";
    Fault::at(size, format!("{what} {from}"))
}

const NO_EXPORT: &str = "it does not begin like an export of the record";

/// Into parts of whole lines, about alike in size.
fn split(block: &[u8], parts: usize) -> Vec<&[u8]> {
    let mut rest = block;
    let mut split = Vec::with_capacity(parts);
    let about = block.len() / parts + 1;
    while !rest.is_empty() {
        let from = about.min(rest.len()) - 1;
        let end =
            rest[from..].iter().position(|c| *c == b'\n').map_or(rest.len(), |at| from + at + 1);
        let (part, later) = rest.split_at(end);
        split.push(part);
        rest = later;
    }
    split
}

/// The lines of a part, without their breaks.
fn lines(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(part.strip_suffix(b"\n").unwrap_or(part));
    std::iter::from_fn(move || {
        let from = rest?;
        let end = memchr(b'\n', from);
        rest = end.map(|end| &from[end + 1..]);
        Some(&from[..end.unwrap_or(from.len())])
    })
}

fn last_line(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    let begin = memrchr(b'\n', part).map_or(0, |at| at + 1);
    &part[begin..]
}

/// The hashes of the lines, and how many codes were checked.
fn hash_part(
    part: &[u8],
    mut position: u64,
    mut before: Hash,
    mac: Option<&MacKey>,
) -> Result<(Vec<Hash>, u64), Fault> {
    let mut hashes = Vec::with_capacity(part.len() / 512);
    let (mut macs, mut place) = (0, Vec::new());
    for line in lines(part) {
        position += 1;
        let record = Record::parse(line)
            .ok_or_else(|| Fault::at(position, "the line is none of a record"))?;
        if record.position != position {
            let what = format!("here stands the record of position {}", record.position);
            return Err(Fault::at(position, what));
        }
        let hash = leaf_in(&mut place, record.content, record.mac, &before);
        if hash != record.hash {
            return Err(Fault::at(position, "the record is not the one that was sealed"));
        }
        if let Some(key) = mac {
            let code = String::from_utf8_lossy(record.mac);
            match key.judges(record.content, &code) {
                Some(false) => {
                    return Err(Fault::at(
                        position,
                        "its code is not that of the daemon that wrote it",
                    ));
                }
                Some(true) => macs += 1,
                None => {}
            }
        }
        hashes.push(hash);
        before = hash;
    }
    Ok((hashes, macs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chain, Checkpoint, PrivateKey, record_line};

    const ORIGIN: &str = "stratavore/log";

    fn key() -> PrivateKey {
        PrivateKey::new(ORIGIN, [1; 32]).unwrap()
    }

    /// An export of so many records, and the checkpoint of each size.
    fn export(records: u64, checkpoints_at: &[u64]) -> (Vec<u8>, Vec<String>) {
        let mut chain = Chain::new(ORIGIN);
        let (mut lines, mut notes) = (Vec::new(), Vec::new());
        for position in 1..=records {
            let content = format!("{{\"id\":\"evt_{position}\"}}");
            let hash = chain.append(content.as_bytes(), b"m");
            let (mac, content) = (&b"m"[..], content.as_bytes());
            record_line(&mut lines, &Record { position, hash, mac, content });
            let checkpoint =
                Checkpoint { origin: ORIGIN.into(), size: chain.size(), root: chain.root() };
            notes.push(checkpoint.signed(&key()));
        }
        let mut text = crate::line(&Line::StratavoreRecord { origin: ORIGIN.into() }).into_bytes();
        text.extend(crate::line(&Line::Key(key().public().text())).bytes());
        for size in checkpoints_at {
            text.extend(crate::line(&Line::Checkpoint(notes[*size as usize - 1].clone())).bytes());
        }
        text.extend(lines);
        (text, notes)
    }

    fn checks(given: &[&String]) -> Checks {
        let given = given.iter().map(|note| ("FILE".to_owned(), (*note).clone()));
        Checks {
            keys: vec![key().public().clone()],
            checkpoints: given.collect(),
            ..Checks::default()
        }
    }

    #[test]
    fn what_is_whole_is_verified_on_any_number_of_threads() {
        let (text, notes) = export(100, &[10, 64, 99]);
        for threads in 1..5 {
            let checks = checks(&[&notes[36], &notes[98]]);
            let report = Verifier::export(&text[..], &checks, threads).unwrap().unwrap();
            let wanted = Report {
                origin: ORIGIN.into(),
                records: 100,
                trimmed: 0,
                checkpoints: 4,
                covered: 99,
                macs: 0,
                keys_were_given: true,
                given: 2,
            };
            assert_eq!(report, wanted);
        }
    }

    #[test]
    fn a_fault_is_told_by_its_position() {
        let (text, notes) = export(50, &[20]);
        let edited = String::from_utf8(text.clone()).unwrap().replace("evt_33", "evt_34");
        let fault = |text: &[u8], given: &[&String]| {
            Verifier::export(text, &checks(given), 3).unwrap().expect_err("it is not whole")
        };
        assert_eq!(fault(edited.as_bytes(), &[]).position, Some(33));
        let (short, _) = export(49, &[20]);
        assert_eq!(fault(&short, &[&notes[49]]).position, Some(50));
        assert!(
            Verifier::export(&short[..], &checks(&[]), 3).unwrap().is_ok(),
            "nothing says more"
        );
        let cut = &text[..text.len() - 3];
        assert!(fault(cut, &[]).what.contains("cut off"));
        assert!(fault(b"x\n", &[]).what.contains("does not begin"));
        assert!(fault(b"", &[]).what.contains("does not begin"));
        let swapped: Vec<&[u8]> = text.split_inclusive(|c| *c == b'\n').collect();
        let mut swapped = swapped;
        swapped.swap(10, 11);
        assert_eq!(fault(&swapped.concat(), &[]).position, Some(8));
    }
}

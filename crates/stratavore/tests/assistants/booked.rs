//! Whether the ledger is what the model has billed: all of it, nothing else, to whom it belongs, and read where
//! it says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratavore_store::testing::sqlite_texts;
use stratavore_testkit::model::{Asked, Bill, Entry, Outcome, Protocol, Purpose};
use stratavore_testkit::wire::on_runtime;

use crate::scene::Scene;

/// Input, cache read, cache write, cache write of an hour, output, reasoning.
pub(crate) type Kinds = [u64; 6];

/// How often what was used, by the runner.
type ByRunner = BTreeMap<String, BTreeMap<Kinds, usize>>;

#[derive(Debug, Clone)]
pub(crate) struct Row(pub(crate) Value);

impl Row {
    pub(crate) fn kinds(&self) -> Kinds {
        serde_json::from_value(self.0["tokens"].clone()).expect("six figures")
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.0["quality"] == "exact"
    }
}

impl Scene {
    /// The rows of the ledger, from the database's own file.
    pub(crate) fn ledger(&self) -> Vec<Row> {
        const ROWS: &str =
            "SELECT json_object('key', key, 'request', request_id, 'message', message_id,
            'purpose', purpose, 'quality', quality, 'runner', runner_id, 'session', session_id,
            'file', file, 'offset', file_offset, 'tokens',
            json_array(input, cache_read, cache_write, cache_write_1h, output, reasoning))
            FROM usage_records ORDER BY at, key";
        let file = self.world.path("state/stratavore.db");
        let texts = on_runtime(sqlite_texts(&file, ROWS));
        texts.iter().map(|text| Row(serde_json::from_str(text).unwrap())).collect()
    }

    /// Waits until the ledger holds what the model has billed, token for token and kind by kind, and nothing
    /// else, and what is reported of it is that.
    #[track_caller]
    pub(crate) fn until_ledger_is_the_bill(&self) {
        assert_eq!(self.model.faults(), Vec::<String>::new());
        self.until("the ledger is the bill", || {
            let (ledger, bill) = (self.ledger(), self.model.bill());
            is_the_bill(&ledger, &bill)?;
            let guessed = ledger.iter().filter(|row| !row.is_exact()).map(Row::kinds);
            let billed = bill.complete().entries;
            let wanted = sum(billed.iter().map(kinds).chain(guessed));
            match self.reported() {
                found if found == wanted => Ok(()),
                found => Err(format!("{found:?} is reported, and {wanted:?} was billed")),
            }
        });
    }

    /// All that was used, as `stratavore usage` tells it.
    fn reported(&self) -> Kinds {
        let told = self.world.json(&["usage"]);
        let names = ["input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"];
        names.map(|name| told["total"]["tokens"][name].as_u64().unwrap_or_else(|| panic!("{told}")))
    }

    /// Whether each runner has in some session of its own what was asked in its name: the owner of a request is
    /// whose words of these come last in it. Gemini, when it begins, says in short what another conversation was:
    /// that is its own, and left out.
    pub(crate) fn is_booked_to(
        &self,
        owners: &[(&str, &[&str])],
        mut ledger: Vec<Row>,
    ) -> Result<(), String> {
        let asked = self.model.asked();
        let (others, own): (Vec<Entry>, Vec<Entry>) =
            self.model.bill().complete().entries.into_iter().partition(is_of_another);
        let mut wanted = ByRunner::new();
        for entry in &own {
            let asked = asked.iter().find(|asked| asked.number == entry.number).unwrap();
            let owner = owner_of(asked, owners).unwrap_or_else(|| panic!("whose is {asked:?}"));
            *wanted.entry(owner).or_default().entry(kinds(entry)).or_default() += 1;
        }
        let others: Vec<Kinds> = others.iter().map(kinds).collect();
        ledger.retain(|row| !others.contains(&row.kinds()));
        let nobodys = ledger.iter().find(|row| !row.0["session"].is_string());
        match booked(&ledger) {
            found if found == wanted && nobodys.is_none() => Ok(()),
            found => Err(format!("{found:?} of {wanted:?}, in no session: {nobodys:?}")),
        }
    }

    #[track_caller]
    pub(crate) fn until_booked_to(&self, owners: &[(&str, &[&str])]) {
        let look = || self.is_booked_to(owners, self.ledger());
        self.until("each has what it was billed for", look);
    }

    /// Demands that each row was read where it says: the line there has the id of its message or request.
    #[track_caller]
    pub(crate) fn each_row_is_where_it_says(&self) {
        let ledger = self.ledger();
        let named = |row: &Row| {
            let ids = [&row.0["message"], &row.0["request"]];
            ids.into_iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        // What is printed of a conversation on demand is in no file of its assistant's.
        let is_in_file = |row: &&Row| Path::new(row.0["file"].as_str().unwrap()).is_absolute();
        let rows: Vec<&Row> =
            ledger.iter().filter(|row| row.is_exact()).filter(is_in_file).collect();
        let (known, _): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !named(row).is_empty());
        assert!(!known.is_empty(), "some name a file, and an id: {ledger:?}");
        for row in known {
            let (file, offset) =
                (row.0["file"].as_str().unwrap(), row.0["offset"].as_u64().unwrap());
            let line = line_at(Path::new(file), offset);
            let has = |line: &str| named(row).iter().any(|id| line.contains(id));
            assert!(line.as_deref().is_some_and(has), "{row:?} is not in {line:?}");
        }
    }
}

/// The line of a file, or of a log in segments that are named by where they begin.
fn line_at(path: &Path, offset: u64) -> Option<String> {
    let (file, begin) = if path.is_dir() {
        let segments = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let begins = |path: PathBuf| {
            let begin: u64 = path.file_stem()?.to_str()?.parse().ok()?;
            (begin <= offset).then_some((begin, path))
        };
        let (begin, file) = segments.filter_map(begins).max()?;
        (file, begin)
    } else {
        (path.to_owned(), 0)
    };
    let bytes = fs::read(file).ok()?;
    let from = usize::try_from(offset - begin).ok()?;
    // A line begins there, and not in the middle of one.
    let is_line = from == 0 || bytes.get(from - 1) == Some(&b'\n');
    let line = bytes.get(from..)?.split(|byte| *byte == b'\n').next()?;
    is_line.then(|| String::from_utf8_lossy(line).into_owned())
}

/// Asked by one runner about the conversation of another.
fn is_of_another(entry: &Entry) -> bool {
    entry.protocol == Protocol::Gemini && entry.purpose == Purpose::Title
}

/// Whose words come last.
fn owner_of(asked: &Asked, owners: &[(&str, &[&str])]) -> Option<String> {
    let said = asked.conversation();
    let last = |words: &[&str]| words.iter().filter_map(|words| said.rfind(words)).max();
    let owner = owners.iter().filter_map(|(owner, words)| Some((last(words)?, *owner))).max();
    owner.map(|(_, owner)| owner.to_owned())
}

/// What was billed to its end stands in it as exact, and so often. What nobody has counted may have figures, as
/// where an answer was cut, but no row more of these than such answers.
pub(crate) fn is_the_bill(ledger: &[Row], bill: &Bill) -> Result<(), String> {
    let (found, wanted) = (counted(ledger), billed(bill));
    if found != wanted {
        return Err(differences(&found, &wanted));
    }
    let is_guess = |row: &&Row| !row.is_exact() && row.kinds() != Kinds::default();
    let guessed: Vec<&Row> = ledger.iter().filter(is_guess).collect();
    let cut = bill.only(|entry| entry.outcome != Outcome::Complete).entries.len();
    match guessed.len() <= cut {
        true => Ok(()),
        false => Err(format!("{cut} answers were cut off, and guessed are {guessed:?}")),
    }
}

/// What stands in the ledger as exact, and how often. No two requests use the same.
pub(crate) fn counted(ledger: &[Row]) -> BTreeMap<Kinds, usize> {
    let mut all = BTreeMap::new();
    for row in ledger.iter().filter(|row| row.is_exact()) {
        *all.entry(row.kinds()).or_default() += 1;
    }
    all
}

/// The same by the runner that it is booked to.
fn booked(ledger: &[Row]) -> ByRunner {
    let mut all = ByRunner::new();
    for row in ledger.iter().filter(|row| row.is_exact()) {
        let runner = row.0["runner"].as_str().unwrap_or_default();
        *all.entry(runner.to_owned()).or_default().entry(row.kinds()).or_default() += 1;
    }
    all
}

/// What was billed to its end, in the ledger's kinds.
pub(crate) fn billed(bill: &Bill) -> BTreeMap<Kinds, usize> {
    let mut all = BTreeMap::new();
    for entry in &bill.complete().entries {
        *all.entry(kinds(entry)).or_default() += 1;
    }
    all
}

fn kinds(entry: &Entry) -> Kinds {
    let usage = entry.usage;
    let (mut short, mut hour) = (usage.cache_write_5m, usage.cache_write_1h);
    let is_told_apart = !matches!(entry.purpose, Purpose::Title | Purpose::Compaction);
    if entry.protocol == Protocol::Messages && !is_told_apart {
        // Claude Code writes these into no transcript, and its telemetry has one figure for both.
        (short, hour) = (short + hour, 0);
    }
    [usage.input, usage.cache_read, short, hour, usage.output, usage.reasoning]
}

fn sum(all: impl Iterator<Item = Kinds>) -> Kinds {
    all.fold(Kinds::default(), |sum, kinds| std::array::from_fn(|kind| sum[kind] + kinds[kind]))
}

fn differences(found: &BTreeMap<Kinds, usize>, wanted: &BTreeMap<Kinds, usize>) -> String {
    let lacks: Vec<_> = wanted.iter().filter(|(kinds, n)| found.get(*kinds) != Some(n)).collect();
    let more: Vec<_> = found.iter().filter(|(kinds, n)| wanted.get(*kinds) != Some(n)).collect();
    format!("of the bill it lacks {lacks:?}, and it has {more:?} instead")
}

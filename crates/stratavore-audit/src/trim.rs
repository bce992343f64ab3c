//! Where a record begins whose older part was moved into files.
//!
//! A note says so, signed by the key of the log: whoever only has the database cannot say that
//! something was moved which was in truth removed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::chain::{Chain, Frontier, Hash};
use crate::note::{NoteError, PrivateKey, Trust, split};

/// Begins the note.
const TRIM: &str = "stratavore trim";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    pub origin: String,
    /// How many records the log had when this was signed.
    pub size: u64,
    /// The last position that is elsewhere now.
    pub upto: u64,
    /// The hash of that record.
    pub hash: Hash,
    /// The tree up to there.
    pub frontier: Frontier,
}

impl Trim {
    pub fn signed(&self, key: &PrivateKey) -> String {
        let roots = self.frontier.to_bytes();
        let roots: String = roots
            .chunks(size_of::<Hash>())
            .map(|root| format!("{}\n", STANDARD.encode(root)))
            .collect();
        let hash = STANDARD.encode(self.hash);
        key.note(&format!("{TRIM}\n{}\n{}\n{}\n{hash}\n{roots}", self.origin, self.size, self.upto))
    }

    /// Reads one without asking who signed it.
    pub fn read(note: &str) -> Result<Self, NoteError> {
        let (text, _) = split(note)?;
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or(NoteError::Form);
        if line()? != TRIM {
            return Err(NoteError::Form);
        }
        let origin = line()?.to_owned();
        let mut number = || line()?.parse::<u64>().map_err(|_| NoteError::Form);
        let (size, upto) = (number()?, number()?);
        let hashes = lines.map(|text| {
            let bytes = STANDARD.decode(text).map_err(|_| NoteError::Form)?;
            Hash::try_from(bytes).map_err(|_| NoteError::Form)
        });
        let hashes = hashes.collect::<Result<Vec<Hash>, _>>()?;
        let (hash, roots) = hashes.split_first().ok_or(NoteError::Form)?;
        let frontier = Frontier::from_bytes(upto, &roots.concat()).ok_or(NoteError::Form)?;
        if upto == 0 || upto > size {
            return Err(NoteError::Form);
        }
        Ok(Self { origin, size, upto, hash: *hash, frontier })
    }

    /// The chain that goes on here.
    pub fn chain(&self) -> Chain {
        Chain::resumed(self.hash, self.frontier.clone())
    }
}

impl Trust {
    /// Reads where a record begins, if a trusted key has signed it.
    pub fn trim(&self, note: &str) -> Result<Trim, NoteError> {
        let trim = Trim::read(note)?;
        match self.is_signed_for(note, &trim.origin, trim.size)? {
            true => Ok(trim),
            false => Err(NoteError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_reads_back_if_the_logs_key_has_signed_it() {
        let key = PrivateKey::new("log", [1; 32]).unwrap();
        let mut chain = Chain::new("log");
        let hashes: Vec<Hash> = (0..5).map(|n| chain.append(&[n], b"")).collect();
        let trim = Trim {
            origin: "log".into(),
            size: 9,
            upto: 5,
            hash: hashes[4],
            frontier: chain.frontier().clone(),
        };
        let note = trim.signed(&key);
        let trust = Trust::new(&[key.public().clone()], &[]);
        assert_eq!(trust.trim(&note).unwrap(), trim);
        assert_eq!(trim.chain(), chain);
        let other = Trust::new(&[PrivateKey::new("log", [2; 32]).unwrap().public().clone()], &[]);
        assert_eq!(other.trim(&note), Err(NoteError::Unknown));
        for (from, to) in [("\n5\n", "\n4\n"), ("\n9\n", "\n4\n"), ("\n9\n", "\n8\n")] {
            assert!(trust.trim(&note.replacen(from, to, 1)).is_err(), "{to:?}");
        }
        assert!(trust.checkpoint(&note).is_err(), "it is no checkpoint");
    }
}

//! What a text is about, as numbers, without a model: its words and the pieces of its words, hashed.
//!
//! Texts that share words, or words of the same stem, get vectors that are near each other. It knows no
//! synonyms; a model that does can be configured in its place.
//!
//! Invariant: the same text gives the same numbers, on every host and in every version of this name.

use crate::words::{fold_into, spans};

/// What the vectors of this module are kept under. Whatever changes them changes this.
pub const BUILTIN: &str = "builtin-1";

/// How many numbers a vector has.
pub const BUILTIN_SIZE: usize = 256;

/// What is less alike than this has nothing in common but chance.
pub const BUILTIN_FLOOR: f32 = 0.2;

/// The most bytes of a text that are looked at: a long one is about what it begins with.
const LOOKED_AT: usize = 8 << 10;

/// Words that say nothing of what a text is about.
const EMPTY: [&str; 64] = [
    "a", "about", "all", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "do",
    "does", "for", "from", "had", "has", "have", "he", "how", "i", "if", "in", "into", "is", "it",
    "its", "me", "my", "no", "not", "of", "on", "one", "or", "our", "please", "she", "so", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "to", "us", "was", "we",
    "were", "what", "when", "which", "who", "why", "will", "with", "you", "your",
];

/// The vector of a text; all zero if there is no word in it.
pub fn builtin(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; BUILTIN_SIZE];
    let mut end = text.len().min(LOOKED_AT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    let mut word = String::new();
    for span in spans(text) {
        word.clear();
        fold_into(&mut word, &text[span]);
        if EMPTY.binary_search(&&*word).is_ok() {
            continue;
        }
        add(&mut vector, hash(word.as_bytes(), 0), 1.0);
        let letters: Vec<char> =
            std::iter::once('<').chain(word.chars()).chain(std::iter::once('>')).collect();
        if letters.len() < 6 {
            continue;
        }
        let pieces = letters.windows(4);
        #[expect(clippy::cast_precision_loss, reason = "a word is short")]
        let weight = 1.0 / (pieces.len() as f32).sqrt();
        for piece in pieces {
            let piece: String = piece.iter().collect();
            add(&mut vector, hash(piece.as_bytes(), 1), weight);
        }
    }
    // A word that stands there ten times is not ten times as much of what it is about.
    for number in &mut vector {
        *number = number.signum() * number.abs().ln_1p();
    }
    normalize(&mut vector);
    vector
}

/// Makes a vector one of length 1. False: it has none, or is no vector of numbers.
pub fn normalize(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|n| f64::from(*n) * f64::from(*n)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return false;
    }
    for number in vector {
        #[expect(clippy::cast_possible_truncation, reason = "it is no larger than it was")]
        let scaled = (f64::from(*number) / length) as f32;
        *number = scaled;
    }
    true
}

fn add(vector: &mut [f32], hash: u64, weight: f32) {
    // Two places, so that two words that share one do not look alike.
    for shift in [0, 24] {
        let bits = hash >> shift;
        let place = usize::try_from(bits % BUILTIN_SIZE as u64).unwrap_or(0);
        let sign = if (bits >> 20) & 1 == 0 { 1.0 } else { -1.0 };
        vector[place] += sign * weight;
    }
}

/// FNV-1a, and its bits mixed once more.
fn hash(bytes: &[u8], kind: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ kind.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(a: &str, b: &str) -> f32 {
        builtin(a).iter().zip(builtin(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_with_words_in_common_are_alike() {
        assert!(EMPTY.is_sorted());
        let text = "refactoring the retry logic of the outbox relay";
        assert!((likeness(text, text) - 1.0).abs() < 1e-5);
        assert!(
            (likeness(text, "Refactoring: the RETRY logic, of the outbox relay!") - 1.0).abs()
                < 1e-5
        );
        let near = likeness(text, "retries in the outbox were refactored");
        let far = likeness(text, "a picture of a cat in the kitchen garden");
        assert!(near > 0.3 && far < BUILTIN_FLOOR && near > far + 0.2, "{near} {far}");
    }

    #[test]
    fn the_numbers_are_what_they_always_were() {
        // Vectors that are kept were made by the same rule: if this fails, BUILTIN needs a new name.
        let vector = builtin("the outbox relay");
        let mut places: Vec<usize> = (0..BUILTIN_SIZE).filter(|at| vector[*at] != 0.0).collect();
        places.truncate(6);
        let sum: f32 = vector.iter().enumerate().map(|(at, n)| n * at as f32).sum();
        assert_eq!((places, (sum * 100.0).round()), (vec![10, 17, 54, 62, 78, 85], 29209.0));
        assert_eq!(builtin(" -- the of"), vec![0.0; BUILTIN_SIZE]);
        assert!(!normalize(&mut [0.0, 0.0]) && !normalize(&mut [f32::NAN]) && !normalize(&mut []));
    }
}

//! The words of a text, as search knows them.
//!
//! Both databases would take a text apart each in a way of its own, and so would find different
//! things. So it is done here: what they index are words that are folded already and stand between
//! spaces.
//!
//! A word is a run of letters and digits, in lower case and without accents. What is written without
//! spaces between words (Chinese, Japanese) is taken letter by letter; several of them are then
//! looked for as a phrase.
//!
//! Invariant: a folded word has letters and digits only, none of them an ASCII capital, and at most
//! [`WORD_MAX`] of them. No folded word means anything to a database's language of queries.

use std::ops::Range;

/// The most letters of a word; what is longer is known by its beginning.
pub const WORD_MAX: usize = 64;

/// Where the words of `text` stand in it.
pub fn spans(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut rest = text.char_indices().peekable();
    std::iter::from_fn(move || {
        let (begin, first) = rest.find(|(_, c)| c.is_alphanumeric())?;
        let mut end = begin + first.len_utf8();
        if !stands_alone(first) {
            while let Some((at, c)) = rest.next_if(|(_, c)| belongs(*c)) {
                end = at + c.len_utf8();
            }
        }
        Some(begin..end)
    })
}

/// Appends a word to `out` as it is compared.
pub fn fold_into(out: &mut String, word: &str) {
    let mut letters = 0;
    for c in word.chars() {
        if is_mark(c) {
            continue;
        }
        if letters == WORD_MAX {
            return;
        }
        letters += 1;
        if c.is_ascii() {
            out.push(c.to_ascii_lowercase());
            continue;
        }
        match plain(c) {
            Some(plain) => out.push_str(plain),
            // Some capitals become a letter and a mark.
            None => out.extend(c.to_lowercase().filter(|c| !is_mark(*c))),
        }
    }
}

/// The folded words of `text`, in order.
pub fn words(text: &str) -> Vec<String> {
    spans(text)
        .map(|span| {
            let mut word = String::new();
            fold_into(&mut word, &text[span]);
            word
        })
        .collect()
}

/// The folded words of `text`, with a space between two.
pub fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for span in spans(text) {
        if !out.is_empty() {
            out.push(' ');
        }
        fold_into(&mut out, &text[span]);
    }
    out
}

fn belongs(c: char) -> bool {
    (c.is_alphanumeric() && !stands_alone(c)) || is_mark(c)
}

/// An accent that follows its letter.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// A letter that is a word of its own.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// A Latin letter without its accent.
fn plain(c: char) -> Option<&'static str> {
    Some(match c {
        'À'..='Å' | 'à'..='å' | 'Ā'..='ą' => "a",
        'Æ' | 'æ' => "ae",
        'Ç' | 'ç' | 'Ć'..='č' => "c",
        'Ď'..='đ' | 'Ð' | 'ð' => "d",
        'È'..='Ë' | 'è'..='ë' | 'Ē'..='ě' => "e",
        'Ĝ'..='ģ' => "g",
        'Ĥ'..='ħ' => "h",
        'Ì'..='Ï' | 'ì'..='ï' | 'Ĩ'..='ı' => "i",
        'Ĵ' | 'ĵ' => "j",
        'Ķ' | 'ķ' => "k",
        'Ĺ'..='ł' => "l",
        'Ñ' | 'ñ' | 'Ń'..='ň' => "n",
        'Ò'..='Ö' | 'Ø' | 'ò'..='ö' | 'ø' | 'Ō'..='ő' => "o",
        'Œ' | 'œ' => "oe",
        'Ŕ'..='ř' => "r",
        'Ś'..='š' => "s",
        'ß' | 'ẞ' => "ss",
        'Ţ'..='ŧ' => "t",
        'Ù'..='Ü' | 'ù'..='ü' | 'Ũ'..='ų' => "u",
        'Ŵ' | 'ŵ' => "w",
        'Ý' | 'ý' | 'ÿ' | 'Ŷ'..='Ÿ' => "y",
        'Ź'..='ž' => "z",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_folded() {
        let of = |text: &str| words(text).join("|");
        assert_eq!(of("Fix the Café's crème-brûlée, NOW!"), "fix|the|cafe|s|creme|brulee|now");
        assert_eq!(of("core/src/words.rs:12 fold_into()"), "core|src|words|rs|12|fold|into");
        assert_eq!(of("Straße ÆON İstanbul e\u{301}te\u{301}"), "strasse|aeon|istanbul|ete");
        assert_eq!(of("検索 て"), "検|索|て");
        assert_eq!(of("Поиск НАЙДЁН"), "поиск|найдён");
        assert_eq!(of("  --- \0 \u{1b}[31m"), "31m");
        assert_eq!(of(&"x".repeat(500)).len(), WORD_MAX);
    }

    proptest! {
        #[test]
        fn folded_words_mean_nothing_to_a_database(text: String) {
            for word in folded(&text).split(' ').filter(|word| !word.is_empty()) {
                prop_assert!(word.chars().all(char::is_alphanumeric), "{word:?}");
                prop_assert!(!word.chars().any(|c| c.is_ascii_uppercase()));
                prop_assert!(word.chars().count() <= 3 * WORD_MAX);
            }
            prop_assert_eq!(words(&text).join(" "), folded(&text));
        }

        #[test]
        fn what_is_folded_stays_as_it_is(text in "[a-zA-ZäöüßéÀ-ÿ0-9 ._-]{0,80}") {
            let once = folded(&text);
            prop_assert_eq!(folded(&once), once.clone());
        }
    }
}

use proptest::prelude::*;

use super::*;

fn shown(text: &str) -> String {
    let query = Query::parse(text).unwrap();
    let term = |term: &Term| {
        let star = if term.is_prefix { "*" } else { "" };
        format!("{}{star}", term.words.join("+"))
    };
    let all: Vec<_> = query
        .wanted
        .iter()
        .map(term)
        .chain(query.unwanted.iter().map(|t| format!("-{}", term(t))))
        .collect();
    all.join(" ")
}

#[test]
fn a_query_says_words_phrases_and_what_is_not_wanted() {
    assert_eq!(shown("Fix the Bug"), "fix the bug");
    assert_eq!(shown("\"race condition\" -flaky"), "race+condition -flaky");
    assert_eq!(shown("snake_case src/main.rs"), "snake+case src+main+rs");
    assert_eq!(shown("refact* - alone"), "refact* alone");
    assert_eq!(shown("-\"not this\" but"), "but -not+this");
    assert_eq!(shown("open \"never closed"), "open never+closed");
    assert_eq!(shown("a -- b"), "a b");
    assert_eq!(Query::parse("  \"\" -- "), Err(QueryError::NoWord));
    assert_eq!(Query::parse("-only"), Err(QueryError::OnlyUnwanted));
    assert_eq!(Query::parse(&"x".repeat(2000)), Err(QueryError::TooLong(2000)));
    assert_eq!(Query::parse(&"x ".repeat(40)), Err(QueryError::TooMuch(40)));
}

#[test]
fn what_is_not_wanted_is_noticed() {
    let query = Query::parse("x -flaky -\"race condition\" -auto*").unwrap();
    for text in ["a Flaky test", "the race, condition", "automatic"] {
        assert!(query.forbids(text), "{text}");
    }
    for text in ["", "condition race", "an auction", "flak y"] {
        assert!(!query.forbids(text), "{text}");
    }
    assert!(!Query::parse("x").unwrap().forbids("x"));
}

fn marked(text: &str, query: &str) -> String {
    let pieces = snippet(text, &Query::parse(query).unwrap());
    pieces
        .iter()
        .map(|p| if p.is_match { format!("[{}]", p.text) } else { p.text.clone() })
        .collect()
}

#[test]
fn a_snippet_shows_what_was_looked_for() {
    assert_eq!(marked("Fix the\nBUG now", "bug fix"), "[Fix] the [BUG] now");
    let long =
        format!("{} here is the needle and thread {}", "hay ".repeat(300), "hay ".repeat(300));
    let found = marked(&long, "needle thread");
    assert!(found.starts_with('…') && found.ends_with('…'), "{found}");
    assert!(found.contains("here is the [needle] and [thread]"), "{found}");
    // Both words near each other are better than one of them earlier.
    let text = format!("needle {} needle thread", "hay ".repeat(300));
    assert!(marked(&text, "needle thread").ends_with("[needle] [thread]"));
    assert_eq!(marked("refactoring", "refac*"), "[refactoring]");
    // Found by its meaning: its beginning is shown.
    assert_eq!(marked("something else", "needle"), "something else");
}

#[test]
fn a_snippet_cannot_reach_past_its_line() {
    let evil = "a\u{1b}[2J\u{7}needle\r\n\u{202e}b\u{9b}31m\u{200b}";
    assert_eq!(marked(evil, "needle"), "a[2J[needle] b31m");
}

proptest! {
    #[test]
    fn no_text_makes_a_query_or_a_snippet_fail(text: String, query: String) {
        if let Ok(query) = Query::parse(&query) {
            let pieces = snippet(&text, &query);
            let length: usize = pieces.iter().map(|piece| piece.text.len()).sum();
            prop_assert!(length <= SNIPPET_MAX + 6);
            prop_assert!(pieces.iter().all(|piece| !piece.text.chars().any(char::is_control)));
            prop_assert!(pieces.windows(2).all(|two| two[0].is_match != two[1].is_match));
        }
    }
}

#[test]
fn earlier_ranks_count_more() {
    assert!(rank_score(0) > rank_score(1));
    // What both lists have in the middle stands before what one has at its beginning.
    assert!(rank_score(9) + rank_score(9) > rank_score(0));
}

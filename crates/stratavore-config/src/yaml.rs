//! A YAML text as a tree of plain values, each with the place where it stands.
//!
//! Types are not decided here: `10` and `"10"` are the same text, and the key that it is given to
//! says what it must be.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Null,
    Scalar(String),
    List(Vec<Node>),
    /// In the order of the text. The place is the key's.
    Map(Vec<(String, Place, Node)>),
}

/// What is wrong with a text that is not YAML, in one line.
#[derive(Debug, PartialEq)]
pub(crate) struct SyntaxError {
    pub place: Place,
    pub message: String,
}

/// How deep values may be nested. No key of ours is half as deep, and each level costs stack.
const DEPTH_MAX: usize = 16;

/// How many values and ends of values there may be, those that aliases repeat counted each time.
const EVENTS_MAX: usize = 20_000;

/// Reads one document. An empty one is [`Content::Null`].
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_events: EVENTS_MAX,
            max_recorded_anchor_events: EVENTS_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: EVENTS_MAX },
    };
    let tree = serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options);
    let tree = tree.map_err(|error| {
        let place = error.location().map_or(Place { line: 1, column: 1 }, place);
        // The first line: what follows repeats the text around the place.
        let message = error.without_snippet().to_string();
        SyntaxError { place, message: message.lines().next().unwrap_or_default().to_string() }
    })?;
    Ok(node(tree))
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line().max(1), column: location.column().max(1) }
}

fn node(tree: Spanned<Tree>) -> Node {
    let content = match tree.value {
        Tree::Null => Content::Null,
        Tree::Scalar(text) => Content::Scalar(text),
        Tree::List(items) => Content::List(items.into_iter().map(node).collect()),
        Tree::Map(entries) => Content::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.value, place(key.referenced), node(value)))
                .collect(),
        ),
    };
    Node { place: place(tree.referenced), content }
}

enum Tree {
    Null,
    Scalar(String),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_where_it_stands() {
        let root = parse("# a comment\nstore:\n  url: sqlite\n  pool:\n    max_connections: 10\nlist: [a, 2, true]\n").unwrap();
        let Content::Map(sections) = root.content else { panic!("{root:?}") };
        let (name, at, store) = &sections[0];
        assert_eq!((name.as_str(), *at), ("store", Place { line: 2, column: 1 }));
        let Content::Map(keys) = &store.content else { panic!("{store:?}") };
        assert_eq!(
            keys[0].2,
            Node { place: Place { line: 3, column: 8 }, content: Content::Scalar("sqlite".into()) }
        );
        let Content::Map(pool) = &keys[1].2.content else { panic!("{keys:?}") };
        assert_eq!(pool[0].2.place, Place { line: 5, column: 22 });
        assert_eq!(pool[0].2.content, Content::Scalar("10".into()));
        let Content::List(list) = &sections[1].2.content else { panic!("{sections:?}") };
        assert_eq!(list[2].content, Content::Scalar("true".into()));
    }

    #[test]
    fn nothing_is_null() {
        for text in ["", "# only a comment\n", "---\n", "null\n"] {
            assert_eq!(parse(text).unwrap().content, Content::Null, "{text:?}");
        }
    }

    /// On a stack as small as that of a thread, which deep nesting once overflowed.
    #[test]
    fn a_text_that_is_too_deep_is_refused_before_it_costs_anything() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!("a: {}1{}", open.repeat(depth), close.repeat(depth))
        };
        let aliased: String = (1..60).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
        let aliased = format!("a0: &a0 [1]\n{aliased}");
        let texts = [nested("[", "]", 64), nested("{a: ", "}", 60), nested("[", "]", 20), aliased];
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            for text in texts {
                let error = parse(&text).unwrap_err();
                assert!(!error.message.contains('\n'), "{error:?}");
            }
            parse(&nested("[", "]", 10)).unwrap();
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn aliases_do_not_make_a_small_text_large() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let below = format!("*a{}", n - 1);
            text.push_str(&format!("a{n}: &a{n} [{}]\n", [below.as_str(); 9].join(", ")));
        }
        let began = std::time::Instant::now();
        assert!(!parse(&text).unwrap_err().message.contains('\n'));
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
        parse("a: &a {log: json}\nb: *a\n").unwrap();
    }

    #[test]
    fn a_broken_text_is_one_line_with_a_place() {
        for (text, line) in [
            ("a: [1\nb: 2\n", 2),
            ("a: 1\na: 2\n", 2),
            ("a:\n\t- 1\n", 2),
            ("a: 1\n---\nb: 2\n", 2),
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
            assert!(error.place.line.abs_diff(line) <= 1, "{text:?}: {error:?}");
        }
    }
}

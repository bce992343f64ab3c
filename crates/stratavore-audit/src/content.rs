//! The one text that a row has.

use serde::de::IgnoredAny;

/// The columns of an event, all but its position and its code, as they stand in the database.
///
/// The canonical text is a JSON object with these members in this order. `origin` and `data` are
/// JSON already, and stand in it to the byte.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub id: &'a str,
    pub entity: &'a str,
    pub entity_id: &'a str,
    pub name: &'a str,
    pub project: Option<&'a str>,
    pub seq: i64,
    pub kind: &'a str,
    pub at_us: i64,
    pub by: &'a str,
    pub origin: Option<&'a str>,
    pub decision: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub data: &'a str,
}

impl Content<'_> {
    /// Appends the canonical text to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        text(out, "{\"id\":", self.id);
        text(out, ",\"entity\":", self.entity);
        text(out, ",\"entity_id\":", self.entity_id);
        text(out, ",\"name\":", self.name);
        optional(out, ",\"project\":", self.project);
        number(out, ",\"seq\":", self.seq);
        text(out, ",\"kind\":", self.kind);
        number(out, ",\"at_us\":", self.at_us);
        text(out, ",\"by\":", self.by);
        raw(out, ",\"origin\":", self.origin.unwrap_or("null"));
        optional(out, ",\"decision\":", self.decision);
        optional(out, ",\"reason\":", self.reason);
        raw(out, ",\"data\":", self.data);
        out.push(b'}');
    }

    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.data.len());
        self.write(&mut out);
        out
    }

    /// True if `origin` and `data` are each one whole JSON object. Else what stands in one could be
    /// read as what stands in another, and the text would say less than it seems to.
    pub fn is_sound(&self) -> bool {
        let object =
            |text: &str| text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
        self.origin.is_none_or(object) && object(self.data)
    }
}

fn raw(out: &mut Vec<u8>, key: &str, json: &str) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(json.as_bytes());
}

fn text(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, value).expect("a text is written to memory");
}

fn optional(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, key, value),
        None => raw(out, key, "null"),
    }
}

fn number(out: &mut Vec<u8>, key: &str, value: i64) {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, &value).expect("a number is written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Content<'_> = Content {
        id: "evt_1",
        entity: "runner",
        entity_id: "run_1",
        name: "a",
        project: None,
        seq: 1,
        kind: "runner.accepted",
        at_us: 5,
        by: "ann",
        origin: Some("{}"),
        decision: Some("allowed"),
        reason: None,
        data: "{}",
    };

    #[test]
    fn the_text_is_the_one_that_is_documented() {
        let text = String::from_utf8(PLAIN.canonical()).unwrap();
        assert_eq!(
            text,
            r#"{"id":"evt_1","entity":"runner","entity_id":"run_1","name":"a","project":null,"seq":1,"kind":"runner.accepted","at_us":5,"by":"ann","origin":{},"decision":"allowed","reason":null,"data":{}}"#
        );
    }

    /// Moving words from one column to the next is no way to the same text.
    #[test]
    fn rows_that_differ_have_texts_that_differ() {
        let moved = Content { name: "a\",\"project\":null", ..PLAIN };
        assert_ne!(moved.canonical(), PLAIN.canonical());
        let absent = Content { reason: Some("null"), ..PLAIN };
        assert_ne!(absent.canonical(), PLAIN.canonical());
        for data in ["", "null", "1", "{}}", "{},\"data\":{}", "[]", "{} x"] {
            assert!(!Content { data, ..PLAIN }.is_sound(), "{data}");
        }
        assert!(PLAIN.is_sound());
    }
}

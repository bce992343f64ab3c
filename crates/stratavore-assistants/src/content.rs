//! The content of a message: a text, or parts that are texts, uses of tools and what came of them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::excerpt::{NAME_MAX, clipped};

/// Text that is not copied unless it has escapes in it. `Cow` alone is not borrowed within an `Option`.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn name(&self) -> String {
        clipped(&self.0, NAME_MAX)
    }
}

/// Content of a form that is not known has no parts.
#[derive(Default)]
pub(crate) enum Content<'a> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Blocks(Vec<Block<'a>>),
}

#[derive(Deserialize)]
pub(crate) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Content<'a>,
}

/// One part of what was said, in the order of saying it.
pub(crate) enum Part<'a> {
    Said(Cow<'a, str>),
    Tool(Cow<'a, str>),
}

impl Content<'_> {
    /// What is text in it.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Content::None => None,
            Content::Text(text) => Some(Cow::Borrowed(text)),
            Content::Blocks(blocks) => {
                let mut texts = blocks.iter().filter_map(Block::said);
                let first = Cow::Borrowed(texts.next()?);
                Some(texts.fold(first, |all, text| Cow::Owned(format!("{all}\n{text}"))))
            }
        }
    }

    /// Texts that follow one another are one part.
    pub(crate) fn parts(&self) -> Vec<Part<'_>> {
        let blocks = match self {
            Content::None => return Vec::new(),
            Content::Text(text) => return vec![Part::Said(Cow::Borrowed(text))],
            Content::Blocks(blocks) => blocks,
        };
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(blocks.len());
        for block in blocks {
            match (block.said(), parts.last_mut()) {
                (Some(text), Some(Part::Said(before))) => {
                    let before = before.to_mut();
                    before.push('\n');
                    before.push_str(text);
                }
                (Some(text), Some(Part::Tool(_)) | None) => {
                    parts.push(Part::Said(Cow::Borrowed(text)));
                }
                (None, _) => parts.extend(block.tool().map(Part::Tool)),
            }
        }
        parts
    }
}

impl Block<'_> {
    fn said(&self) -> Option<&str> {
        match self.kind.as_ref()?.as_str() {
            "text" | "input_text" | "output_text" => self.text.as_ref().map(Text::as_str),
            _ => None,
        }
    }

    fn tool(&self) -> Option<Cow<'_, str>> {
        match self.kind.as_ref()?.as_str() {
            "tool_use" | "server_tool_use" => {
                let name = self.name.as_ref()?.as_str();
                let input = self.input.map_or("", RawValue::get);
                Some(Cow::Owned(format!("{name} {input}")))
            }
            "tool_result" => self.content.text(),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("content")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut blocks = Vec::new();
        while let Some(block) = seq.next_element()? {
            blocks.push(block);
        }
        Ok(Content::Blocks(blocks))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Content::None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Content::None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Content::None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Content::None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Content::None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Content::None)
    }
}

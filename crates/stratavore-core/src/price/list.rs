//! List prices of models, as their makers publish them.
//!
//! Standard tier, no batch, no region that costs more. A model stands here only if each of its
//! prices is published; of the others the cost is unknown, and can be given in the configuration.

use super::{Price, Tariff};

/// When the list was last compared with what the makers publish.
pub const VERSION: &str = "2026-11";

/// In thousandths of a dollar for a million tokens.
pub(super) struct Row {
    pub(super) model: &'static str,
    price: [u32; 5],
    long: Option<(u64, [u32; 5])>,
}

impl Row {
    pub(super) fn tariff(&self) -> Tariff {
        Tariff { price: price(self.price), long: self.long.map(|(above, its)| (above, price(its))) }
    }
}

fn price(thousandths: [u32; 5]) -> Price {
    let [input, cache_write, cache_write_1h, cache_read, output] =
        thousandths.map(|price| u64::from(price) * 1000);
    Price { input, output, cache_read, cache_write, cache_write_1h }
}

const fn flat(model: &'static str, price: [u32; 5]) -> Row {
    Row { model, price, long: None }
}

/// Where writing to the cache costs what reading does, and no time is chosen.
const fn plain(model: &'static str, input: u32, cached: u32, output: u32) -> Row {
    flat(model, [input, input, input, cached, output])
}

const fn tiered(model: &'static str, short: [u32; 3], above: u64, long: [u32; 3]) -> Row {
    let [input, cached, output] = short;
    let [long_input, long_cached, long_output] = long;
    Row {
        model,
        price: [input, input, input, cached, output],
        long: Some((above, [long_input, long_input, long_input, long_cached, long_output])),
    }
}

const OPUS: [u32; 5] = [5_000, 6_250, 10_000, 500, 25_000];
const OPUS_4: [u32; 5] = [15_000, 18_750, 30_000, 1_500, 75_000];
const SONNET: [u32; 5] = [3_000, 3_750, 6_000, 300, 15_000];
const SONNET_LONG: [u32; 5] = [6_000, 7_500, 12_000, 600, 22_500];

/// Input, cache write of five minutes, of an hour, cache read, output.
pub(super) const LIST: &[Row] = &[
    // Anthropic: platform.claude.com/docs/en/about-claude/pricing
    flat("claude-fable-5-1", [10_000, 12_500, 20_000, 250, 50_000]),
    flat("claude-fable-5", [10_000, 12_500, 20_000, 1_000, 50_000]),
    flat("claude-opus-5-5", [4_000, 5_000, 8_000, 200, 20_000]),
    flat("claude-opus-5", OPUS),
    flat("claude-opus-4-8", OPUS),
    flat("claude-opus-4-7", OPUS),
    flat("claude-opus-4-6", OPUS),
    flat("claude-opus-4-5", OPUS),
    flat("claude-opus-4-1", OPUS_4),
    flat("claude-opus-4-0", OPUS_4),
    flat("claude-opus-4", OPUS_4),
    flat("claude-3-opus", OPUS_4),
    flat("claude-sonnet-5-5", [2_000, 2_500, 4_000, 100, 10_000]),
    flat("claude-sonnet-5", [2_000, 2_500, 4_000, 200, 10_000]),
    flat("claude-sonnet-4-6", SONNET),
    Row { model: "claude-sonnet-4-5", price: SONNET, long: Some((200_000, SONNET_LONG)) },
    Row { model: "claude-sonnet-4-0", price: SONNET, long: Some((200_000, SONNET_LONG)) },
    Row { model: "claude-sonnet-4", price: SONNET, long: Some((200_000, SONNET_LONG)) },
    flat("claude-3-7-sonnet", SONNET),
    flat("claude-3-5-sonnet", SONNET),
    Row {
        model: "claude-haiku-5-5",
        price: [100, 125, 200, 10, 500],
        long: Some((100_000, [500, 625, 1_000, 50, 2_500])),
    },
    flat("claude-haiku-4-5", [1_000, 1_250, 2_000, 100, 5_000]),
    flat("claude-3-5-haiku", [800, 1_000, 1_600, 80, 4_000]),
    flat("claude-3-haiku", [250, 300, 500, 30, 1_250]),
    // OpenAI: developers.openai.com/api/docs/pricing
    plain("gpt-5.4-mini", 750, 75, 4_500),
    plain("gpt-5.4-nano", 200, 20, 1_250),
    plain("gpt-5.3-codex", 1_750, 175, 14_000),
    plain("gpt-5.2-codex", 1_750, 175, 14_000),
    plain("gpt-5.2", 1_750, 175, 14_000),
    plain("gpt-5.1-codex-max", 1_250, 125, 10_000),
    plain("gpt-5.1-codex-mini", 250, 25, 2_000),
    plain("gpt-5.1-codex", 1_250, 125, 10_000),
    plain("gpt-5.1", 1_250, 125, 10_000),
    plain("gpt-5-codex", 1_250, 125, 10_000),
    plain("gpt-5-mini", 250, 25, 2_000),
    plain("gpt-5-nano", 50, 5, 400),
    plain("gpt-5", 1_250, 125, 10_000),
    plain("gpt-4.1-mini", 400, 100, 1_600),
    plain("gpt-4.1-nano", 100, 25, 400),
    plain("gpt-4.1", 2_000, 500, 8_000),
    plain("gpt-4o-mini", 150, 75, 600),
    plain("o4-mini", 1_100, 275, 4_400),
    plain("o3", 2_000, 500, 8_000),
    // Google: ai.google.dev/gemini-api/docs/pricing
    tiered("gemini-3.1-pro", [2_000, 200, 12_000], 200_000, [4_000, 400, 18_000]),
    tiered("gemini-3-pro", [2_000, 200, 12_000], 200_000, [4_000, 400, 18_000]),
    tiered("gemini-2.5-pro", [1_250, 125, 10_000], 200_000, [2_500, 250, 15_000]),
    plain("gemini-3.5-flash", 1_500, 150, 9_000),
    plain("gemini-3-flash", 500, 50, 3_000),
    plain("gemini-2.5-flash", 300, 30, 2_500),
    plain("gemini-2.5-flash-lite", 100, 10, 400),
];

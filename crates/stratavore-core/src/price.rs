//! What tokens cost, by model.
//!
//! A model that is not known has no cost, which is not a cost of nothing. Prices are whole millionths
//! of a US dollar for a million tokens, so a cost is exact until the one rounding at its end: to the
//! nearest millionth, half of one upwards, for each message.
//!
//! The list that comes with the program is in `price/list.rs`; a configuration may put prices of its
//! own before it.

mod list;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::usage::Tokens;

pub use list::VERSION;

/// Prices of one model, in millionths of a US dollar for a million tokens. Reasoning is output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Price {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    pub cache_write_1h: u64,
}

/// What a model costs, short prompts and long ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tariff {
    pub price: Price,
    /// What all of a message costs whose prompt, with what is read from caches and written to them,
    /// has more tokens than this.
    pub long: Option<(u64, Price)>,
}

impl Price {
    /// In millionths of a dollar.
    pub fn cost(&self, tokens: &Tokens) -> i64 {
        let Tokens { input, output, cache_read, cache_write, cache_write_1h, reasoning } = *tokens;
        let parts = [
            (input, self.input),
            (output, self.output),
            (reasoning, self.output),
            (cache_read, self.cache_read),
            (cache_write, self.cache_write),
            (cache_write_1h, self.cache_write_1h),
        ];
        // Six products of 64 bits each fit into 128 bits but for the last bits of the largest.
        let sum = parts
            .iter()
            .map(|(tokens, price)| u128::from(*tokens) * u128::from(*price))
            .fold(0, u128::saturating_add);
        i64::try_from(sum.saturating_add(500_000) / 1_000_000).unwrap_or(i64::MAX)
    }
}

impl Tariff {
    pub fn flat(price: Price) -> Self {
        Self { price, long: None }
    }

    pub fn cost(&self, tokens: &Tokens) -> i64 {
        let prompt = [tokens.input, tokens.cache_read, tokens.cache_write, tokens.cache_write_1h];
        let prompt = prompt.into_iter().fold(0, u64::saturating_add);
        match self.long {
            Some((above, long)) if prompt > above => long.cost(tokens),
            Some(_) | None => self.price.cost(tokens),
        }
    }
}

/// Which models a price is for: a name, or the beginning of one that ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

const PATTERN_MAX: usize = 128;

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let is_part = |b: u8| b.is_ascii_graphic() && b != b'*';
        match !name.is_empty() && text.len() <= PATTERN_MAX && name.bytes().all(is_part) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!(
                "`{}` is no name of a model, with or without `*` at its end",
                text.chars().take(PATTERN_MAX).collect::<String>().escape_debug()
            )),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How well a pattern fits; the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// So many characters of its beginning.
    Beginning(usize),
    /// The same model, as of some day.
    Dated,
    Whole,
}

fn fit(pattern: &str, model: &str) -> Option<Fit> {
    if let Some(beginning) = pattern.strip_suffix('*') {
        return model.starts_with(beginning).then_some(Fit::Beginning(beginning.len()));
    }
    match model.strip_prefix(pattern)? {
        "" => Some(Fit::Whole),
        rest => is_date(rest).then_some(Fit::Dated),
    }
}

/// True for what may follow the name of a model and leaves it the same: a date, `latest`, `preview`,
/// a version of a seller (`-v1:0`). A number of few digits is another model.
fn is_date(rest: &str) -> bool {
    let mut parts = rest.split(['-', '@']);
    if parts.next() != Some("") {
        return false;
    }
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mut months_may_follow = false;
    for part in parts {
        let good = match part {
            "latest" => true,
            "preview" => {
                months_may_follow = true;
                true
            }
            part if digits(part) => match part.len() {
                8 => true,
                4 => {
                    months_may_follow = true;
                    true
                }
                2 => months_may_follow,
                _ => false,
            },
            part => part
                .strip_prefix('v')
                .is_some_and(|v| !v.is_empty() && v.split(':').all(|n| !n.is_empty() && digits(n))),
        };
        if !good {
            return false;
        }
    }
    true
}

/// A model as its maker calls it, whoever sells it (`openrouter/anthropic/…`, `us.anthropic.…`) and
/// however long its context may be (`…[1m]`).
fn plain(model: &str) -> String {
    let model = model.rsplit('/').next().unwrap_or(model);
    let model = model.rsplit_once("anthropic.").map_or(model, |(_, name)| name);
    let model = model.split('[').next().unwrap_or(model);
    model.to_ascii_lowercase()
}

/// All prices that are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prices {
    /// Those of the configuration.
    own: Vec<(Pattern, Tariff)>,
}

impl Prices {
    /// The list that comes with the program, with prices that come before it.
    pub fn new(own: Vec<(Pattern, Tariff)>) -> Self {
        Self { own }
    }

    /// What a model costs. A price of one's own goes before that of the list, however it fits; among
    /// several of either, the one that fits best.
    pub fn of(&self, model: &str) -> Option<Tariff> {
        self.own(model).map(|(_, tariff)| *tariff).or_else(|| {
            let model = plain(model);
            let known = list::LIST.iter();
            let fitting = known.filter_map(|row| Some((fit(row.model, &model)?, row)));
            fitting.max_by_key(|(fits, _)| *fits).map(|(_, row)| row.tariff())
        })
    }

    /// Which list the price of a model is of: the one that comes with the program, or that and what stands
    /// before it, which then has a name of its own. The same prices have the same name.
    pub fn version(&self, model: &str) -> String {
        match self.own(model) {
            None => VERSION.into(),
            Some((pattern, tariff)) => format!("{VERSION}+own:{:08x}", name_of(pattern, tariff)),
        }
    }

    fn own(&self, model: &str) -> Option<(&Pattern, &Tariff)> {
        let (whole, model) = (model.to_ascii_lowercase(), plain(model));
        let own = self.own.iter().filter_map(|(pattern, tariff)| {
            // One's own may be for one seller only.
            let fits = fit(&pattern.0, &whole).max(fit(&pattern.0, &model))?;
            Some((fits, (pattern, tariff)))
        });
        own.max_by_key(|(fits, _)| *fits).map(|(_, own)| own)
    }

    /// What a message of a model cost, in millionths of a dollar; `None`: its price is not known.
    pub fn cost(&self, model: &str, tokens: &Tokens) -> Option<i64> {
        self.of(model).map(|tariff| tariff.cost(tokens))
    }
}

/// A short name of a price that stays the same for as long as the price does (FNV-1a).
fn name_of(pattern: &Pattern, tariff: &Tariff) -> u32 {
    let mut numbers = Vec::new();
    let mut add = |price: &Price| {
        let Price { input, output, cache_read, cache_write, cache_write_1h } = *price;
        numbers.extend([input, output, cache_read, cache_write, cache_write_1h]);
    };
    add(&tariff.price);
    let above = tariff.long.map(|(above, price)| {
        add(&price);
        above
    });
    numbers.extend(above);
    let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
    let bytes = pattern.0.bytes().chain([0]).chain(numbers);
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Reads dollars with up to six decimals, exactly.
pub fn parse_dollars(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || part.len() > 6 || !digits(whole) || !digits(part) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u64 = format!("{part:0<6}").parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens() -> impl Strategy<Value = Tokens> {
        let one = || prop_oneof![0u64..10, 0u64..10_000_000, any::<u64>()];
        (one(), one(), one(), one(), one(), one()).prop_map(|(a, b, c, d, e, f)| Tokens {
            input: a,
            output: b,
            cache_read: c,
            cache_write: d,
            cache_write_1h: e,
            reasoning: f,
        })
    }

    #[test]
    fn a_price_of_ones_own_has_a_version_of_its_own() {
        let price =
            |input| Price { input, output: 2, cache_read: 3, cache_write: 4, cache_write_1h: 5 };
        let own =
            |input| Prices::new(vec![("gpt-9*".parse().unwrap(), Tariff::flat(price(input)))]);
        let version = own(1).version("gpt-9-mini");
        assert!(version.starts_with(&format!("{VERSION}+own:")), "{version}");
        assert_eq!(own(1).version("openrouter/openai/gpt-9-mini"), version);
        assert_ne!(own(7).version("gpt-9-mini"), version);
        // What the list has is the list's, whatever else stands before it.
        assert_eq!(own(1).version("claude-opus-4-8"), VERSION);
        assert_eq!(Prices::default().version("gpt-9-mini"), VERSION);
    }

    fn cost(model: &str, input: u64, output: u64) -> Option<i64> {
        Prices::default().cost(model, &Tokens { input, output, ..Tokens::default() })
    }

    proptest! {
        /// The rounding is the only thing that is not exact, and it is less than one millionth.
        #[test]
        fn a_cost_is_exact_to_half_a_millionth(
            tokens in tokens(), prices in proptest::array::uniform5(0u64..1_000_000_000),
        ) {
            let [input, output, cache_read, cache_write, cache_write_1h] = prices;
            let price = Price { input, output, cache_read, cache_write, cache_write_1h };
            let exact = u128::from(tokens.input) * u128::from(input)
                + (u128::from(tokens.output) + u128::from(tokens.reasoning)) * u128::from(output)
                + u128::from(tokens.cache_read) * u128::from(cache_read)
                + u128::from(tokens.cache_write) * u128::from(cache_write)
                + u128::from(tokens.cache_write_1h) * u128::from(cache_write_1h);
            let cost = price.cost(&tokens);
            prop_assert!(cost >= 0);
            if cost < i64::MAX {
                let back = cost as u128 * 1_000_000;
                prop_assert!(back <= exact + 500_000 && exact < back + 500_000);
            }
        }

        /// More tokens never cost less, where there is one tariff.
        #[test]
        fn a_cost_grows_with_its_tokens(a in tokens(), b in tokens()) {
            let price = Prices::default().of("claude-opus-4-8").unwrap().price;
            prop_assert!(price.cost(&(a + b)) >= price.cost(&a).max(price.cost(&b)));
        }

        #[test]
        fn no_name_of_a_model_makes_it_panic(model: String) {
            Prices::default().of(&model);
            let _ = model.parse::<Pattern>();
            parse_dollars(&model);
        }

        #[test]
        fn dollars_are_read_exactly(micros in 0u64..1_000_000_000_000) {
            let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
            prop_assert_eq!(parse_dollars(&text), Some(micros));
        }
    }

    /// As the assistant itself has counted them, in the sample data.
    #[test]
    fn costs_are_those_that_the_assistant_counts() {
        let seen = Tokens { input: 1152, output: 252, cache_read: 20_152, ..Tokens::default() };
        let an_hour = Tokens { cache_write_1h: 452, ..seen };
        let five_minutes = Tokens { cache_write: 452, ..seen };
        let prices = Prices::default();
        assert_eq!(prices.cost("claude-opus-4-8", &five_minutes), Some(24_961));
        assert_eq!(prices.cost("claude-opus-4-8[1m]", &an_hour), Some(26_656));
        assert_eq!(cost("claude-opus-4-8", 1, 2), Some(55));
    }

    #[test]
    fn a_model_is_known_by_its_name_its_date_and_its_seller() {
        for same in [
            "claude-opus-4-5",
            "claude-opus-4-5-20251101",
            "Claude-Opus-4-5-latest",
            "claude-opus-4-5@20251101",
            "openrouter/anthropic/claude-opus-4-5",
            "us.anthropic.claude-opus-4-5-20251101-v1:0",
            "claude-opus-4-5[1m]",
        ] {
            assert_eq!(cost(same, 1_000_000, 0), Some(5_000_000), "{same}");
        }
        assert_eq!(cost("claude-opus-4-20250514", 1_000_000, 0), Some(15_000_000));
        assert_eq!(cost("gpt-5-2025-08-07", 1_000_000, 0), Some(1_250_000));
        assert_eq!(cost("gemini-2.5-pro-preview-05-06", 1_000, 0), Some(1_250));
    }

    #[test]
    fn a_model_that_is_not_known_has_no_cost() {
        for unknown in [
            "",
            "<synthetic>",
            "claude",
            "claude-opus",
            "claude-opus-4-99",
            "claude-opus-4-10",
            "gpt-5-pro",
            "gpt-5.2-pro",
            "gpt-50",
            "gemini-2.5-pro-tts",
            "my-own-model",
        ] {
            assert_eq!(cost(unknown, 1_000_000, 0), None, "{unknown}");
        }
    }

    #[test]
    fn long_prompts_may_cost_more_and_all_of_them_does() {
        assert_eq!(cost("gemini-2.5-pro", 200_000, 1_000), Some(260_000));
        assert_eq!(cost("gemini-2.5-pro", 200_001, 1_000), Some(515_003));
    }

    #[test]
    fn ones_own_prices_go_first() {
        let flat = |input| {
            let (output, cache_read, cache_write, cache_write_1h) = (input, input, input, input);
            Tariff::flat(Price { input, output, cache_read, cache_write, cache_write_1h })
        };
        let own = |text: &str, input| (text.parse::<Pattern>().unwrap(), flat(input));
        let prices = Prices::new(vec![
            own("claude-*", 1),
            own("claude-opus-*", 2),
            own("claude-opus-4-8", 3),
            own("corp/*", 4),
        ]);
        let input = |model: &str| prices.of(model).map(|tariff| tariff.price.input);
        assert_eq!(input("claude-sonnet-4-5"), Some(1));
        assert_eq!(input("claude-opus-4-7"), Some(2));
        assert_eq!(input("claude-opus-4-8-20260501"), Some(3));
        assert_eq!(input("corp/anything"), Some(4));
        assert_eq!(input("gpt-5"), Some(1_250_000));
        for bad in ["", "*", "a*b", "a b", &"x".repeat(200)] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_amount_of_dollars_is_refused() {
        assert_eq!(parse_dollars("6.25"), Some(6_250_000));
        assert_eq!(parse_dollars(".5"), Some(500_000));
        assert_eq!(parse_dollars("3"), Some(3_000_000));
        for bad in ["", ".", "-1", "1e3", "1.0000001", "1,5", "99999999999999999999"] {
            assert_eq!(parse_dollars(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_list_names_each_model_once_and_leaves_no_price_out() {
        let names: std::collections::BTreeSet<_> = list::LIST.iter().map(|row| row.model).collect();
        assert_eq!(names.len(), list::LIST.len());
        for row in list::LIST {
            let Price { input, output, cache_read, cache_write, cache_write_1h } =
                row.tariff().price;
            assert!(0 < cache_read && cache_read <= input && input < output, "{}", row.model);
            assert!(input <= cache_write && cache_write <= cache_write_1h, "{}", row.model);
            assert_eq!(fit(row.model, &plain(row.model)), Some(Fit::Whole), "{}", row.model);
        }
    }
}

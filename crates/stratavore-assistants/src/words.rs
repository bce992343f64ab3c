//! Reads the words of a command as its program would: options, their values, and texts.
//!
//! Only so much is read as is needed to tell a prompt from the value of an option. Where an option
//! is not known, the text after it may be its value, and is said to be unsure.

use std::ops::Range;

/// The options of a program, by what follows them.
pub(crate) struct Options {
    pub(crate) alone: &'static [&'static str],
    /// One value.
    pub(crate) one: &'static [&'static str],
    /// One value or none.
    pub(crate) maybe: &'static [&'static str],
    /// As many values as there are texts.
    pub(crate) many: &'static [&'static str],
}

/// One option with its values, or one text. `at` are its places in the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word<'a> {
    Option {
        name: &'a str,
        value: Option<&'a str>,
        at: Range<usize>,
    },
    Text {
        text: &'a str,
        sure: bool,
        at: usize,
    },
    /// All after it are texts.
    End {
        at: usize,
    },
}

impl Options {
    pub(crate) fn read<'a>(&self, args: &'a [String]) -> Vec<Word<'a>> {
        let mut words = Vec::new();
        let mut at = 0;
        let mut ended = false;
        let mut sure = true;
        while let Some(arg) = args.get(at) {
            let arg = arg.as_str();
            if ended || !arg.starts_with('-') || arg == "-" {
                words.push(Word::Text { text: arg, sure: sure || ended, at });
                sure = true;
                at += 1;
                continue;
            }
            if arg == "--" {
                words.push(Word::End { at });
                ended = true;
                at += 1;
                continue;
            }
            let (name, inline) = self.last_option(arg, at, &mut words);
            let after = args.get(at + 1..).unwrap_or_default();
            let texts = after.iter().take_while(|next| !next.starts_with('-')).count();
            let values = match () {
                () if inline.is_some() || self.alone.contains(&name) => 0,
                () if self.one.contains(&name) => after.len().min(1),
                () if self.maybe.contains(&name) => texts.min(1),
                () if self.many.contains(&name) => texts,
                () => 0,
            };
            sure = inline.is_some() || self.knows(name);
            let next = if values > 0 { after.first().map(String::as_str) } else { None };
            words.push(Word::Option { name, value: inline.or(next), at: at..at + 1 + values });
            at += 1 + values;
        }
        words
    }

    /// The command without some of its words.
    pub(crate) fn without(
        &self,
        args: &[String],
        is_out: impl Fn(&Word<'_>) -> bool,
    ) -> Vec<String> {
        let mut kept = vec![true; args.len()];
        for word in self.read(args).iter().filter(|word| is_out(word)) {
            // A value may be missing at the end.
            word.at()
                .for_each(|at| kept.iter_mut().skip(at).take(1).for_each(|kept| *kept = false));
        }
        args.iter().zip(kept).filter(|(_, kept)| *kept).map(|(arg, _)| arg.clone()).collect()
    }

    fn knows(&self, name: &str) -> bool {
        [self.alone, self.one, self.maybe, self.many].into_iter().any(|names| names.contains(&name))
    }

    /// The option of one word, with the value that is in the same word: `--name=value`, `-nvalue`. Of
    /// letters that are put together (`-pc`) the first go to `words`.
    fn last_option<'a>(
        &self,
        arg: &'a str,
        at: usize,
        words: &mut Vec<Word<'a>>,
    ) -> (&'a str, Option<&'a str>) {
        if arg.starts_with("--") {
            return arg.split_once('=').map_or((arg, None), |(name, value)| (name, Some(value)));
        }
        let mut letters = arg.char_indices().skip(1).peekable();
        let mut last = arg;
        while let Some((start, letter)) = letters.next() {
            let rest = &arg[start + letter.len_utf8()..];
            let named = |names: &'static [&'static str]| {
                names.iter().copied().find(|name| name.strip_prefix('-') == letter_text(arg, start))
            };
            if let Some(name) = [self.one, self.maybe, self.many].into_iter().find_map(named) {
                return (name, Some(rest).filter(|rest| !rest.is_empty()));
            }
            let Some(name) = named(self.alone) else { return (arg, None) };
            if letters.peek().is_some() {
                words.push(Word::Option { name, value: None, at: at..at + 1 });
            }
            last = name;
        }
        (last, None)
    }
}

/// The one character of a text that begins at `start`.
fn letter_text(text: &str, start: usize) -> Option<&str> {
    let rest = text.get(start..)?;
    rest.get(..rest.chars().next()?.len_utf8())
}

impl<'a> Word<'a> {
    /// True for the option of one of these names.
    pub(crate) fn is(&self, names: &[&str]) -> bool {
        match self {
            Word::Option { name, .. } => names.contains(name),
            Word::Text { .. } | Word::End { .. } => false,
        }
    }

    fn at(&self) -> Range<usize> {
        match self {
            Word::Option { at, .. } => at.clone(),
            Word::Text { at, .. } | Word::End { at } => *at..*at + 1,
        }
    }

    /// True for a text that is no option's value, as far as the options are known.
    pub(crate) fn is_text(&self) -> bool {
        match self {
            Word::Text { sure, .. } => *sure,
            Word::Option { .. } | Word::End { .. } => false,
        }
    }

    pub(crate) fn value(&self) -> Option<&'a str> {
        match self {
            Word::Option { value, .. } => *value,
            Word::Text { .. } | Word::End { .. } => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match self {
            Word::Text { text, .. } => Some(text),
            Word::Option { .. } | Word::End { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options {
        alone: &["-p", "-c", "--fork"],
        one: &["-m", "--model"],
        maybe: &["-r", "--resume"],
        many: &["--add-dir"],
    };

    fn read(line: &str) -> String {
        let args: Vec<String> = line.split(' ').map(String::from).collect();
        let words = OPTIONS.read(&args);
        words
            .iter()
            .map(|word| match word {
                Word::Option { name, value, at } => {
                    format!("{name}({})#{}", value.unwrap_or("-"), at.len())
                }
                Word::Text { text, sure, .. } => format!("{text}{}", if *sure { "" } else { "?" }),
                Word::End { .. } => "|".into(),
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn values_are_told_from_texts() {
        assert_eq!(read("-p fix"), "-p(-)#1 fix");
        assert_eq!(read("-m opus fix"), "-m(opus)#2 fix");
        assert_eq!(read("--model=opus fix"), "--model(opus)#1 fix");
        assert_eq!(read("-mopus fix"), "-m(opus)#1 fix");
        assert_eq!(read("-r -p fix"), "-r(-)#1 -p(-)#1 fix");
        assert_eq!(read("-r abc fix"), "-r(abc)#2 fix");
        assert_eq!(read("--add-dir a b -p fix"), "--add-dir(a)#3 -p(-)#1 fix");
        assert_eq!(read("--new fix it"), "--new(-)#1 fix? it");
        assert_eq!(read("--new -- fix -p"), "--new(-)#1 | fix -p");
        assert_eq!(read("-m"), "-m(-)#1");
        assert_eq!(read("- é -é x"), "- é -é(-)#1 x?");
    }

    #[test]
    fn letters_that_are_put_together_are_options_of_their_own() {
        assert_eq!(read("-pc fix"), "-p(-)#1 -c(-)#1 fix");
        assert_eq!(read("-pm opus fix"), "-p(-)#1 -m(opus)#2 fix");
        assert_eq!(read("-px fix"), "-p(-)#1 -px(-)#1 fix?");
    }
}

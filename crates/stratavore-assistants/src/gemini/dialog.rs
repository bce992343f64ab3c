//! Gemini's dialog for a permission, as it stands on its screen: a frame with a question mark and the tool,
//! what the tool is used with, and choices.

use stratavore_core::ask::ASK_TEXT_MAX;

use crate::told::cut;

/// The first of the choices, which no other dialog has.
pub(super) const CHOICE: &str = "1. Allow once";
/// Before the tool.
const ASKS: &str = "? ";

/// The tool, and what stands between it and the choices.
pub(super) fn read(screen: &str) -> Option<(String, String)> {
    let lines: Vec<&str> = screen.lines().map(without_frame).collect();
    let choice = lines.iter().rposition(|line| line.contains(CHOICE))?;
    let first = lines[..choice].iter().rposition(|line| line.starts_with(ASKS))?;
    let asked = lines[first].trim_start_matches(ASKS).trim_start();
    let (tool, said) = asked.split_once(' ').unwrap_or((asked, ""));
    let said = [said.trim()].into_iter().chain(lines[first + 1..choice].iter().copied());
    let said: Vec<&str> = said.filter(|line| !line.is_empty()).collect();
    Some((tool.into(), cut(&said.join("\n"), ASK_TEXT_MAX)))
}

fn without_frame(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || ('\u{2500}'..='\u{257f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_off_the_screen() {
        let screen = "
 > make it, please
╭──────────────────────────────────────────╮
│ ? Shell  echo one > first.txt            │
│ ╭──────────────────────────────────────╮ │
│ │ echo one > first.txt                 │ │
│ ╰──────────────────────────────────────╯ │
│ Allow execution of [Shell]?              │
│                                          │
│ ● 1. Allow once                          │
│   2. Allow for this session              │
╰──────────────────────────────────────────╯
";
        let text = "echo one > first.txt\necho one > first.txt\nAllow execution of [Shell]?";
        assert_eq!(read(screen), Some(("Shell".into(), text.into())));
        let bare = "? fetch\n1. Allow once";
        assert_eq!(read(bare), Some(("fetch".into(), String::new())));
        for nothing in ["", "> what? ", "1. Allow once", "? Shell ls", "1. Allow once\n? Shell ls"]
        {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }
}

//! A whole escape sequence, taken apart.

/// A whole escape sequence. `raw` is all of it, without the controls that stood inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sequence<'a> {
    pub raw: &'a [u8],
    pub kind: Kind<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// `ESC` intermediates final. For a single shift (`N`, `O`), with the character it shifts.
    Escape { intermediates: &'a [u8], last: u8 },
    /// `ESC [` marker parameters intermediates final. The marker is one of `< = > ?`.
    Csi { marker: Option<u8>, params: &'a [u8], intermediates: &'a [u8], last: u8 },
    /// A control string up to its terminator, which is `ESC \`, or BEL after OSC.
    String { introducer: Introducer, payload: &'a [u8], bell: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Introducer {
    Dcs,
    Osc,
    /// SOS, PM and APC: strings for programs other than the terminal.
    Private,
    /// `ESC k`: the title of a window of screen and tmux.
    ScreenTitle,
}

impl<'a> Sequence<'a> {
    /// Takes a sequence apart. `raw` is one as the tokenizer ends it: nothing less, nothing more.
    pub(super) fn parse(raw: &'a [u8]) -> Self {
        let (introducer, body, last) = (raw[1], &raw[2..], raw[raw.len() - 1]);
        let string = |introducer| {
            let bell = last == 0x07;
            let end = if bell { 1 } else { 2 };
            Kind::String { introducer, payload: &body[..body.len() - end], bell }
        };
        let kind = match introducer {
            b'[' => {
                let body = &body[..body.len() - 1];
                let (marker, body) = match body.first() {
                    Some(&marker @ b'<'..=b'?') => (Some(marker), &body[1..]),
                    _ => (None, body),
                };
                let end = body.iter().position(|b| matches!(b, 0x20..=0x2f)).unwrap_or(body.len());
                let (params, intermediates) = body.split_at(end);
                Kind::Csi { marker, params, intermediates, last }
            }
            b']' => string(Introducer::Osc),
            b'P' => string(Introducer::Dcs),
            b'X' | b'^' | b'_' => string(Introducer::Private),
            b'k' => string(Introducer::ScreenTitle),
            b'N' | b'O' => Kind::Escape { intermediates: &[], last: introducer },
            _ => Kind::Escape { intermediates: &raw[1..raw.len() - 1], last },
        };
        Self { raw, kind }
    }
}

/// The numbers of a parameter string; what is absent is `None`. A number too big is the biggest.
/// Sub-parameters (after `:`) are left out.
pub(super) fn numbers(params: &[u8]) -> impl Iterator<Item = Option<u32>> + '_ {
    params.split(|&b| b == b';').map(|param| {
        let digits = param.split(|&b| b == b':').next().unwrap_or_default();
        (!digits.is_empty()).then(|| {
            digits.iter().fold(0u32, |n, d| {
                n.saturating_mul(10).saturating_add(u32::from(d.wrapping_sub(b'0')))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_saturate() {
        let all: Vec<_> = numbers(b"1;;38:2:1;99999999999").collect();
        assert_eq!(all, [Some(1), None, Some(38), Some(u32::MAX)]);
    }
}

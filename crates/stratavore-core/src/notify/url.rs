//! Addresses of HTTP servers, as far as they are needed here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SecretRef;

const URL_MAX: usize = 2048;

/// An `http` or `https` URL, or where one is found that is a secret as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Url {
    Plain(PlainUrl),
    Secret(SecretRef),
}

impl Url {
    /// What people may see of it.
    pub fn shown(&self) -> String {
        match self {
            Self::Plain(url) => url.shown(),
            Self::Secret(reference) => reference.to_string(),
        }
    }

    pub fn reference(&self) -> Option<&SecretRef> {
        match self {
            Self::Plain(_) => None,
            Self::Secret(reference) => Some(reference),
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match SecretRef::is_meant(text) {
            true => text.parse().map(Self::Secret),
            false => text.parse().map(Self::Plain),
        }
    }
}

impl TryFrom<String> for Url {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Url> for String {
    fn from(url: Url) -> String {
        match url {
            Url::Plain(url) => url.to_string(),
            Url::Secret(reference) => reference.into(),
        }
    }
}

/// A URL without a user, a password or a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainUrl {
    pub is_https: bool,
    /// A name or an address; one of IPv6 without its brackets.
    pub host: String,
    pub port: u16,
    /// From the first slash on; never empty.
    pub path: String,
}

impl PlainUrl {
    pub fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// The host as it stands in a URL and in the header `Host`, with the port if it is not the usual one.
    pub fn authority(&self) -> String {
        let usual = if self.is_https { 443 } else { 80 };
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// The server; what stands in its path may be a secret.
    pub fn shown(&self) -> String {
        let rest = if self.path == "/" { "" } else { "/…" };
        format!("{}://{}{rest}", self.scheme(), self.authority())
    }
}

impl FromStr for PlainUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What was given may hold a secret, so it is not repeated.
        let wrong = |why: &str| Err(format!("the URL is not good: {why}"));
        if text.len() > URL_MAX {
            return wrong("it is longer than 2048 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\')) {
            return wrong("it has characters that must be written as %XX, or a name in xn-- form");
        }
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return wrong("it has to begin with https:// or http://"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return wrong(
                "it has a user or a password in it; put the whole URL into a file and give file:/PATH",
            );
        }
        if path.contains('#') {
            return wrong("it has a fragment, #…");
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_host =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'%');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(is_host) {
            return wrong("it names no host");
        }
        let port = match port.map(str::parse::<u16>) {
            None => {
                if is_https {
                    443
                } else {
                    80
                }
            }
            Some(Ok(port)) if port != 0 => port,
            Some(Ok(_) | Err(_)) => return wrong("its port is no number from 1 to 65535"),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_https, host: host.to_ascii_lowercase(), port, path })
    }
}

impl fmt::Display for PlainUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, path, shown) in [
            ("https://h.org", "h.org", 443, "/", "https://h.org"),
            ("http://H.org:8080/a?b=c", "h.org", 8080, "/a?b=c", "http://h.org:8080/…"),
            (
                "https://[2001:db8::1]:444/x",
                "2001:db8::1",
                444,
                "/x",
                "https://[2001:db8::1]:444/…",
            ),
            ("http://127.0.0.1?q", "127.0.0.1", 80, "/?q", "http://127.0.0.1/…"),
        ] {
            let url: PlainUrl = text.parse().unwrap();
            assert_eq!((&*url.host, url.port, &*url.path), (host, port, path), "{text}");
            assert_eq!(url.shown(), shown);
            assert_eq!(url.to_string().parse::<PlainUrl>().unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_url_for_us_is_refused() {
        for text in [
            "ftp://h",
            "https://",
            "https://user:pw@h/",
            "https://h/#f",
            "https://h:0/",
            "https://h:x/",
            "https://h:70000",
            "https://h /",
            "https://hé/",
            "https://h/\r\nX: y",
            "",
            "h.org",
            "https://[::1",
            "https://a\"b",
        ] {
            assert!(text.parse::<PlainUrl>().is_err(), "{text}");
        }
        assert!("https://h/?".parse::<PlainUrl>().is_ok());
        assert!(format!("https://h/{}", "x".repeat(URL_MAX)).parse::<PlainUrl>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(https?://)?.{0,40}") {
            if let Ok(url) = text.parse::<PlainUrl>() {
                prop_assert_eq!(url.to_string().parse::<PlainUrl>(), Ok(url));
            }
        }
    }
}

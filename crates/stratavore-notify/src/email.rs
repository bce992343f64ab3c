//! Mail, by SMTP to a server that passes it on.
//!
//! Invariant: over `starttls` and `tls` nothing but the greeting is said before the connection is
//! protected, and what was received in the clear is not believed after it.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use stratavore_core::notify::{Channel, MailTls, Message};
use stratavore_core::{NotificationId, Timestamp};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::{Answer, Failure, Inner, said};

/// Lines and bytes of a reply.
const REPLY_LINES: usize = 64;
const LINE_MAX: u64 = 2048;
const SUBJECT_MAX: usize = 200;
/// How this host calls itself: its name is nobody's business.
const HELLO: &str = "EHLO stratavore.invalid\r\n";

/// One conversation.
struct Talk<S> {
    stream: BufReader<S>,
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

pub(crate) async fn send(
    inner: &Inner,
    channel: &Channel,
    id: NotificationId,
    message: &Message,
    now: Timestamp,
) -> Answer {
    let Channel::Email { host, port, tls, user, password, from, to } = channel else {
        return Err(Failure::misconfigured("it is no mail"));
    };
    let password = password.as_ref().map(|password| inner.secret(password)).transpose()?;
    let login = user.as_deref().zip(password.as_ref());
    let mail = Mail { from, to, text: compose(from, to, id, message, now) };
    let stream = inner.dialer.dial(host, *port).await?;
    match tls {
        MailTls::Off => Talk::new(stream).greeted().await?.deliver(login, &mail).await,
        MailTls::Tls => {
            let stream = inner.dialer.protect(stream, host).await?;
            Talk::new(stream).greeted().await?.deliver(login, &mail).await
        }
        MailTls::Starttls => {
            let plain = Talk::new(stream).greeted().await?.starttls(host).await?;
            let stream = inner.dialer.protect(plain, host).await?;
            Talk::new(stream).deliver(login, &mail).await
        }
    }
}

struct Mail<'a> {
    from: &'a str,
    to: &'a [String],
    text: String,
}

impl Talk<TcpStream> {
    /// Has the server speak TLS from now on.
    async fn starttls(mut self, host: &str) -> Result<TcpStream, Failure> {
        let hello = self.ask(HELLO, &[250]).await?;
        if !hello.lines.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
            return Err(Failure::misconfigured(format!(
                "{host} offers no STARTTLS; try --mail-tls tls"
            )));
        }
        self.ask("STARTTLS\r\n", &[220]).await?;
        if !self.stream.buffer().is_empty() {
            return Err(Failure::misconfigured(format!(
                "{host} goes on in the clear after STARTTLS"
            )));
        }
        Ok(self.stream.into_inner())
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    async fn greeted(mut self) -> Result<Self, Failure> {
        self.expect(&[220]).await?;
        Ok(self)
    }

    async fn deliver(mut self, login: Option<(&str, &SecretString)>, mail: &Mail<'_>) -> Answer {
        self.ask(HELLO, &[250]).await?;
        if let Some((user, password)) = login {
            let word = STANDARD.encode(format!("\0{user}\0{}", password.expose_secret()));
            self.ask(&format!("AUTH PLAIN {word}\r\n"), &[235]).await.map_err(|mut failure| {
                failure.detail = format!("it does not let {user} in: {}", failure.detail);
                failure
            })?;
        }
        self.ask(&format!("MAIL FROM:<{}>\r\n", mail.from), &[250]).await?;
        for to in mail.to {
            self.ask(&format!("RCPT TO:<{to}>\r\n"), &[250, 251]).await?;
        }
        self.ask("DATA\r\n", &[354]).await?;
        let taken = self.ask(&format!("{}\r\n.\r\n", mail.text), &[250]).await?;
        // It has the message; whether it hears a goodbye does not matter.
        self.stream.write_all(b"QUIT\r\n").await.ok();
        self.stream.shutdown().await.ok();
        Ok(Some(taken.code))
    }

    async fn ask(&mut self, line: &str, wanted: &[u16]) -> Result<Reply, Failure> {
        let sent = async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| Failure::away(format!("talk SMTP: {error}")))?;
        self.expect(wanted).await
    }

    async fn expect(&mut self, wanted: &[u16]) -> Result<Reply, Failure> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            let read = (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line).await;
            read.map_err(|error| Failure::away(format!("talk SMTP: {error}")))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let Some((code, more, text)) = parse(&line) else {
                return Err(match line.is_empty() {
                    true => Failure::away("the mail server ended the conversation"),
                    false => Failure::misconfigured("what answers does not speak SMTP"),
                });
            };
            lines.push(text.to_owned());
            if more && lines.len() < REPLY_LINES {
                continue;
            }
            if wanted.contains(&code) && !more {
                return Ok(Reply { code, lines });
            }
            let why = said(&lines.join(" "), &[]);
            return Err(Failure::refused(code, format!("the mail server says: {why}")));
        }
    }
}

/// Takes `250-text` apart: the code, whether more lines follow, and the text.
fn parse(line: &str) -> Option<(u16, bool, &str)> {
    let line = line.strip_suffix('\n')?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let code = line.get(..3)?.parse().ok().filter(|code| (200..600).contains(code))?;
    let (more, text) = match line.as_bytes().get(3) {
        None => (false, ""),
        Some(b' ') => (false, &line[4..]),
        Some(b'-') => (true, &line[4..]),
        Some(_) => return None,
    };
    Some((code, more, text))
}

/// The whole message, with line ends as SMTP has them and no dot at the beginning of a line.
fn compose(
    from: &str,
    to: &[String],
    id: NotificationId,
    message: &Message,
    now: Timestamp,
) -> String {
    let date =
        jiff::fmt::rfc2822::to_string(&now.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
    let domain = from.rsplit('@').next().unwrap_or("stratavore.invalid");
    let title: String = message.title.chars().take(SUBJECT_MAX).collect();
    let mut text = format!(
        "From: Stratavore <{from}>\r\nTo: {}\r\nSubject: {}\r\nDate: {date}\r\n\
         Message-ID: <{id}@{domain}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\
         Auto-Submitted: auto-generated\r\n\r\n",
        to.join(",\r\n "),
        encoded(&format!("[{}] {title}", message.severity.as_str())),
    );
    // Base64 has neither dots nor line ends.
    let body = STANDARD.encode(message.text() + "\n");
    for line in body.as_bytes().chunks(76) {
        let _ = write!(text, "{}\r\n", String::from_utf8_lossy(line));
    }
    text.truncate(text.len() - 2);
    text
}

/// A header's text in words of RFC 2047, of at most 75 characters each.
fn encoded(text: &str) -> String {
    let mut words: Vec<String> = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > 42) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let word = |word: &String| format!("=?utf-8?B?{}?=", STANDARD.encode(word));
    words.iter().map(word).collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_nothing_else() {
        assert_eq!(parse("250-SIZE 100\r\n"), Some((250, true, "SIZE 100")));
        assert_eq!(parse("250 ok\n"), Some((250, false, "ok")));
        assert_eq!(parse("354\r\n"), Some((354, false, "")));
        for wrong in
            ["", "250 ok", "25\r\n", "ok\r\n", "999 x\r\n", "250x\r\n", "2é0 x\r\n", "\r\n"]
        {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn no_line_of_a_mail_is_long_or_begins_with_a_dot() {
        let mut message = Message::test("mail", "Ünal", Timestamp::UNIX_EPOCH);
        message.title = ".\r\n.\r\nBcc: all ".repeat(50) + "漢字";
        let to = vec!["a@example.org".to_owned(), "b@example.org".to_owned()];
        let id = NotificationId::from_entropy([3; 16]);
        let text = compose("s@example.org", &to, id, &message, Timestamp::UNIX_EPOCH);
        for line in text.split("\r\n") {
            assert!(
                line.len() <= 78 && !line.starts_with('.') && !line.contains(['\r', '\n']),
                "{line}"
            );
        }
        assert!(!text.contains("Bcc"), "what is in a title is no header");
        assert!(text.contains(&format!("Message-ID: <{id}@example.org>")));
    }
}

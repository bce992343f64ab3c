//! Webhooks by the Standard Webhooks specification: an id that stays, a time, and signatures.

use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use stratavore_core::notify::{Message, SecretRef, Url};
use stratavore_core::{NotificationId, Timestamp};

use crate::{Answer, Failure, Inner, http, said};

/// Signs by every secret that is given, so that one can take the place of another.
pub(crate) struct Signer {
    keys: Vec<Key>,
}

enum Key {
    Symmetric(Box<hmac::Key>),
    Asymmetric(Ed25519KeyPair),
}

const WANTED: &str =
    "a secret is `whsec_` and 24 to 64 bytes in base64, or `whsk_` and an Ed25519 key";

impl Signer {
    pub(crate) fn new(secret: &SecretString) -> Result<Self, String> {
        let keys = secret.expose_secret().split_ascii_whitespace().map(key);
        let keys = keys.collect::<Option<Vec<Key>>>().filter(|keys| !keys.is_empty());
        keys.map(|keys| Self { keys }).ok_or_else(|| WANTED.into())
    }

    /// The header `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let mut content = format!("{id}.{seconds}.").into_bytes();
        content.extend_from_slice(body);
        let of = |key: &Key| match key {
            Key::Symmetric(key) => format!("v1,{}", STANDARD.encode(hmac::sign(key, &content))),
            Key::Asymmetric(key) => format!("v1a,{}", STANDARD.encode(key.sign(&content))),
        };
        self.keys.iter().map(of).collect::<Vec<_>>().join(" ")
    }
}

fn key(text: &str) -> Option<Key> {
    if let Some(encoded) = text.strip_prefix("whsk_") {
        let bytes = STANDARD.decode(encoded).ok()?;
        // The seed, alone or with the public key behind it.
        let seed = matches!(bytes.len(), 32 | 64).then(|| &bytes[..32])?;
        let pair: Result<Ed25519KeyPair, _> = signature::Ed25519KeyPair::from_seed_unchecked(seed);
        return pair.ok().map(Key::Asymmetric);
    }
    let bytes = STANDARD.decode(text.strip_prefix("whsec_")?).ok()?;
    (24..=64)
        .contains(&bytes.len())
        .then(|| Key::Symmetric(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes))))
}

pub(crate) async fn send(
    inner: &Inner,
    url: &Url,
    secret: &SecretRef,
    id: NotificationId,
    message: &Message,
    now: Timestamp,
) -> Answer {
    let (plain, secret) = (inner.url(url)?, inner.secret(secret)?);
    let signer = Signer::new(&secret).map_err(Failure::misconfigured)?;
    let body = message.payload().to_string().into_bytes();
    let (id, seconds) = (id.to_string(), now.as_second());
    let signature = signer.sign(&id, seconds, &body);
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", signature),
    ];
    let response = http::post(&inner.dialer, &plain, &headers, body, now).await?;
    response.judge(&said(&response.body, &[&secret]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn signer(secret: &str) -> Result<Signer, String> {
        Signer::new(&SecretString::from(secret))
    }

    /// The vector of the specification's own libraries.
    #[test]
    fn it_signs_as_the_specification_does() {
        let signature = signer(SECRET).unwrap().sign(ID, 1_614_265_330, BODY);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_signatures_while_one_replaces_the_other() {
        let seed = STANDARD.encode([7; 32]);
        let both = signer(&format!("{SECRET} whsk_{seed}")).unwrap().sign(ID, 1, BODY);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, signer(SECRET).unwrap().sign(ID, 1, BODY));
        let raw = STANDARD.decode(second.strip_prefix("v1a,").unwrap()).unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = signature::KeyPair::public_key(&pair).as_ref().to_vec();
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, public);
        let content = [format!("{ID}.1.").as_bytes(), BODY].concat();
        key.verify(&content, &raw).unwrap();
        assert!(key.verify(b"other", &raw).is_err());
    }

    #[test]
    fn what_is_no_secret_is_not_signed_with_and_not_repeated() {
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        let odd = format!("whsk_{}", STANDARD.encode([1; 33]));
        for wrong in ["", "plain", "whsec_", "whsec_***", &short, &long, &odd, "whsec_ x"] {
            let Err(error) = signer(wrong) else { panic!("{wrong} is taken") };
            assert_eq!(error, WANTED);
        }
    }
}

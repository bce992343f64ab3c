//! The vault as it is configured: a directory, or a part of a bucket.
//!
//! Each node has a part of its own, by its id: no two daemons write below one name. What is in one bucket
//! is read by all of them.

use std::sync::Arc;

use stratavore_config::VaultUrl;
use stratavore_core::NodeId;
use stratavore_core::clock::Clock;
use stratavore_vault::Vault;

use crate::setup::{Setup, SetupError};

pub(crate) fn open(
    setup: &Setup,
    node: NodeId,
    clock: Arc<dyn Clock>,
) -> Result<Vault, SetupError> {
    let directory = setup.paths.state_dir().join("vault");
    match &setup.config.vault.url {
        VaultUrl::Directory => Vault::open(directory).map_err(SetupError::Vault),
        #[cfg(feature = "s3")]
        VaultUrl::S3 { bucket, prefix } => {
            let settings = s3::settings(setup, bucket, prefix, node, clock)?;
            Vault::open_bucket(settings, directory).map_err(SetupError::Vault)
        }
        #[cfg(not(feature = "s3"))]
        url @ VaultUrl::S3 { .. } => {
            let (_, _) = (node, clock);
            Err(SetupError::NoS3 { url: url.to_string() })
        }
    }
}

#[cfg(feature = "s3")]
mod s3 {
    use std::path::Path;

    use secrecy::{ExposeSecret, SecretString};
    use stratavore_config::{S3, read_key};
    use stratavore_control::chain;
    use stratavore_notify::{Http, SystemResolver};
    use stratavore_vault::{Credentials, S3Settings};

    use super::*;

    pub(super) fn settings(
        setup: &Setup,
        bucket: &str,
        prefix: &str,
        node: NodeId,
        clock: Arc<dyn Clock>,
    ) -> Result<S3Settings, SetupError> {
        let S3 { endpoint, region, credentials_file, timeout } = setup.config.vault.s3.clone();
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        Ok(S3Settings {
            endpoint: endpoint.parse().map_err(|why| SetupError::S3Endpoint { why })?,
            region,
            bucket: bucket.into(),
            prefix: prefix.into(),
            name: node.to_string(),
            credentials: Arc::new(move || match &credentials_file {
                Some(path) => read(path),
                None => Err("vault.s3.credentials_file is not set".into()),
            }),
            http: Http::new(Arc::new(SystemResolver), setup.roots()?, timeout),
            clock,
        })
    }

    fn read(path: &Path) -> Result<Credentials, String> {
        let text = read_key(path).map_err(|error| chain(&error))?;
        parse(text.expose_secret()).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// The form that Amazon's tools have: lines `name = value` below `[default]`. Nothing of a file that is
    /// wrong is told.
    fn parse(text: &str) -> Result<Credentials, String> {
        let (mut key, mut secret, mut token) = (None, None, None);
        let mut is_ours = true;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                is_ours = section.trim_end_matches(']').trim() == "default";
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|_| is_ours) else { continue };
            let value = value.trim();
            match name.trim() {
                "aws_access_key_id" => key = Some(value.to_owned()),
                "aws_secret_access_key" => secret = Some(SecretString::from(value)),
                "aws_session_token" => token = Some(SecretString::from(value)),
                _ => {}
            }
        }
        match (key, secret) {
            (Some(key), Some(secret)) => Ok(Credentials { key, secret, token }),
            (None, _) => Err("it has no aws_access_key_id".into()),
            (_, None) => Err("it has no aws_secret_access_key".into()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn credentials_are_read_as_amazons_tools_write_them() {
            let file = "# ours\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s/e=c\n\n\
                        [other]\naws_access_key_id = AKIA2\naws_session_token = t\n";
            let read = parse(file).unwrap();
            assert_eq!((read.key.as_str(), read.secret.expose_secret()), ("AKIA1", "s/e=c"));
            assert!(read.token.is_none());
            let read =
                parse("aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c").unwrap();
            assert_eq!(read.token.unwrap().expose_secret(), "c");
            for (wrong, why) in [
                ("hunter2", "it has no aws_access_key_id"),
                (
                    "aws_access_key_id=a\n[other]\naws_secret_access_key=hunter2",
                    "it has no aws_secret_access_key",
                ),
            ] {
                assert_eq!(parse(wrong).unwrap_err(), why);
            }
        }
    }
}

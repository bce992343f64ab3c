//! Certificates of the cluster: its CA's, and one for each node.
//!
//! A node's certificate names it by a DNS name under [`DOMAIN`], lives for a day, and is renewed by
//! its daemon with the same key. The CA's key stays on the host where it was made.
//!
//! Invariant: the CA signs for no name but a node's, and nothing of it lasts longer than it does.

use std::io;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, alg_id};
use stratavore_core::{NodeId, Timestamp};
use stratavore_proto::runner_dir::write_durably;

use super::{digest, other};
use crate::times::or_as_tested;

/// Under which nodes have their names; no server of this name exists.
const DOMAIN: &str = "node.stratavore.internal";
const NODE_LIFE: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far clocks of hosts may differ.
const SKEW: Duration = Duration::from_secs(300);
/// Comes before what a node signs to show that it holds a key, so that nothing else it signs is one.
const POSSESSION: &[u8] = b"stratavore: this key is mine\0";

/// How long a node's certificate holds.
pub(crate) fn node_life() -> Duration {
    or_as_tested("node_life", NODE_LIFE)
}

/// The name that a node's certificate is for.
pub(crate) fn name_of(node: NodeId) -> String {
    let id = node.to_string();
    format!("{}.{DOMAIN}", id.strip_prefix("node_").unwrap_or(&id))
}

pub(crate) fn server_name(node: NodeId) -> io::Result<ServerName<'static>> {
    ServerName::try_from(name_of(node)).map_err(other)
}

/// Whose certificate it is, and a digest of its key. It was verified before.
pub(crate) fn holder(certificate: &CertificateDer<'_>) -> io::Result<(NodeId, String)> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(other)?;
    let node = certificate
        .valid_dns_names()
        .filter_map(|name| name.strip_suffix(DOMAIN)?.strip_suffix('.'))
        .find_map(|id| format!("node_{id}").parse().ok())
        .ok_or_else(|| other("the certificate names no node"))?;
    Ok((node, digest(certificate.subject_public_key_info().as_ref())))
}

/// A key, and the certificate that goes with it once there is one.
pub(crate) struct Identity {
    key: KeyPair,
    /// Of this node, then of the CA.
    pub(crate) chain: Option<Vec<CertificateDer<'static>>>,
}

impl Identity {
    /// Reads what stands in `directory`, and makes a key if there is none.
    pub(crate) fn load(directory: &Path) -> io::Result<Self> {
        let key = key_in(directory)?;
        let chain = match std::fs::read(directory.join(CERTIFICATE)) {
            Ok(pem) => Some(certificates(&pem)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { key, chain })
    }

    pub(crate) fn keep(&mut self, directory: &Path, pem: &str) -> io::Result<()> {
        let chain = certificates(pem.as_bytes())?;
        let (_, key_digest) = holder(chain.first().ok_or_else(|| other("an empty certificate"))?)?;
        if key_digest != self.key_digest() {
            return Err(other("the certificate is for another key"));
        }
        write_durably(&directory.join(CERTIFICATE), pem.as_bytes())?;
        self.chain = Some(chain);
        Ok(())
    }

    pub(crate) fn key_digest(&self) -> String {
        digest(&self.key.subject_public_key_info())
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }

    /// The public key, and a proof for `what` that its other half is here.
    pub(crate) fn prove(&self, what: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let proof = self.key.sign(&possession(what)).map_err(other)?;
        Ok((self.key.public_key_raw().to_vec(), proof))
    }
}

fn possession(what: &str) -> Vec<u8> {
    [POSSESSION, what.as_bytes()].concat()
}

/// What signs: the CA's key, with its certificate.
pub(crate) struct Authority {
    key: KeyPair,
    pub(crate) pem: String,
    certificate: CertificateDer<'static>,
}

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";

impl Authority {
    /// `None`: it is not on this host.
    pub(crate) fn load(directory: &Path) -> io::Result<Option<Self>> {
        let pem = match std::fs::read_to_string(directory.join(CERTIFICATE)) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let key =
            KeyPair::from_pem(&std::fs::read_to_string(directory.join(KEY))?).map_err(other)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(other)?;
        Ok(Some(Self { key, pem, certificate }))
    }

    /// Makes a CA and keeps it in `directory`, which must be its owner's only.
    pub(crate) fn create(directory: &Path, now: Timestamp) -> io::Result<Self> {
        let key = key_in(directory)?;
        let pem = params(now).self_signed(&key).map_err(other)?.pem();
        write_durably(&directory.join(CERTIFICATE), pem.as_bytes())?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(other)?;
        Ok(Self { key, pem, certificate })
    }

    /// A certificate for a node and its key, with this CA's after it. The proof must be what
    /// [`Identity::prove`] made for `what`.
    pub(crate) fn sign(
        &self,
        node: NodeId,
        public_key: &[u8],
        proof: &[u8],
        what: &str,
        now: Timestamp,
    ) -> io::Result<String> {
        let public_key = Public::proven(public_key, proof, what)?;
        let mut params = CertificateParams::new(vec![name_of(node)]).map_err(other)?;
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        valid_for(&mut params, now, node_life());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let own = self::params(now);
        let issuer = Issuer::from_params(&own, &self.key);
        let signed = params.signed_by(&public_key, &issuer).map_err(other)?;
        Ok(format!("{}{}", signed.pem(), self.pem))
    }

    /// What a join token carries of it.
    pub(crate) fn pin(&self) -> String {
        digest(&self.certificate)
    }
}

/// A public key whose other half somebody has shown to hold.
pub(crate) struct Public(Vec<u8>);

impl Public {
    pub(crate) fn proven(key: &[u8], proof: &[u8], what: &str) -> io::Result<Self> {
        use rustls::crypto::aws_lc_rs::default_provider;
        let algorithms = default_provider().signature_verification_algorithms;
        let algorithm = algorithms
            .all
            .iter()
            .find(|algorithm| algorithm.signature_alg_id() == alg_id::ED25519)
            .ok_or_else(|| other("Ed25519 is not to be had"))?;
        algorithm
            .verify_signature(key, &possession(what), proof)
            .map_err(|_| other("the proof that the key is its own does not hold"))?;
        Ok(Self(key.into()))
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.subject_public_key_info())
    }
}

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Stratavore cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(DOMAIN.into())],
        excluded_subtrees: Vec::new(),
    });
    valid_for(&mut params, now, CA_LIFE);
    params
}

/// The key in `directory`, made if it is missing.
fn key_in(directory: &Path) -> io::Result<KeyPair> {
    stratavore_config::ensure_private_dir(directory).map_err(other)?;
    let path = directory.join(KEY);
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&PKCS_ED25519).map_err(other)?;
            write_durably(&path, key.serialize_pem().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(other)
}

/// From a little before now, since clocks differ, for so long.
fn valid_for(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.as_second().unsigned_abs());
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + life;
}

/// When the certificate in `directory` was written there.
pub(crate) fn written(directory: &Path) -> Option<Timestamp> {
    let modified = std::fs::metadata(directory.join(CERTIFICATE)).ok()?.modified().ok()?;
    Timestamp::try_from(modified).ok()
}

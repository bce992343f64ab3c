//! A CA of a test's own, and the certificates that it gives.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Signs for whoever asks.
pub struct Ca {
    key: KeyPair,
    params: CertificateParams,
    /// Its certificate.
    pub pem: String,
}

/// A certificate and its key, as PEM.
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.certificate)
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        // Of two with one name, one's certificate would be the other's with a bad signature.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("CA {number} of a test"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Self { key, params, pem }
    }

    /// For a server that is reached under this name or address.
    pub fn server(&self, name: &str) -> Certified {
        self.signed(name, ExtendedKeyUsagePurpose::ServerAuth, |_| ())
    }

    /// The same, and over already.
    pub fn expired(&self, name: &str) -> Certified {
        self.signed(name, ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    pub fn client(&self, name: &str) -> Certified {
        self.signed(name, ExtendedKeyUsagePurpose::ClientAuth, |_| ())
    }

    fn signed(
        &self,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certified {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("the CA signs");
        Certified { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

//! Makes certificates. Pure: time and chance come from outside.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// What the DNS names end in that stand for nodes, as a node checks them in the handshake.
const DOMAIN: &str = "meridian";

/// Certificates are good from a little before they are made: clocks differ.
const BACKDATED_S: i64 = 3600;

const DAY_S: i64 = 86_400;

/// The moment and the chance of a new certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Seconds since 1970.
    pub(crate) now_s: i64,
    /// A number that no other certificate of the authority has.
    pub(crate) serial: u128,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub(crate) struct NodeNames {
    pub(crate) region: String,
    /// The id under which clients and other nodes know it.
    pub(crate) broker: u32,
    /// Names and addresses under which it is dialled.
    pub(crate) hosts: Vec<String>,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) names: Vec<String>,
    /// Seconds since 1970.
    pub(crate) expires_s: i64,
    is_authority: bool,
    public_key: Vec<u8>,
    subject: String,
}

/// Why no certificate was made.
#[derive(Debug, Error)]
pub(crate) enum MakeError {
    /// A PEM file does not hold what it should.
    #[error("{what}: {problem}")]
    Content { what: &'static str, problem: String },
    /// It is not what signs, or it signs no more.
    #[error("the authority {0}")]
    Authority(String),
    /// A name that no certificate can hold.
    #[error("{0}")]
    Name(String),
    /// The library cannot make it.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

const CA: &str = "the authority's certificate (ca.pem)";
const CA_KEY: &str = "the authority's key (ca-key.pem)";
const NODE: &str = "the certificate (node.pem)";
const NODE_KEY: &str = "the key (node-key.pem)";

impl Moment {
    fn serial(self) -> SerialNumber {
        // Positive, and not zero: RFC 5280, 4.1.2.2.
        let number = (self.serial >> 1) | 1;
        SerialNumber::from_slice(&number.to_be_bytes())
    }
}

impl NodeNames {
    /// The DNS name that stands for the node: `node-7.west.meridian`.
    pub(crate) fn node_name(&self) -> String {
        format!("node-{}.{}.{DOMAIN}", self.broker, self.region)
    }

    /// Everything that the certificate is to name.
    fn names(&self) -> Result<Vec<SanType>, MakeError> {
        let region = &self.region;
        let is_label = !region.is_empty()
            && region.len() <= 63
            && region
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !region.starts_with('-')
            && !region.ends_with('-');
        if !is_label {
            return Err(MakeError::Name(format!(
                "the region's name '{region}' cannot stand in a certificate: expected letters, digits and hyphens"
            )));
        }
        let mut names = vec![dns_name(&self.node_name())?];
        for host in &self.hosts {
            names.push(match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => dns_name(host)?,
            });
        }
        Ok(names)
    }
}

fn dns_name(name: &str) -> Result<SanType, MakeError> {
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    let wrong = || {
        MakeError::Name(format!(
            "the host '{name}' cannot stand in a certificate: expected a name such as node-1.example, or an address"
        ))
    };
    if !is_name {
        return Err(wrong());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong())?))
}

/// An authority that signs itself.
pub(crate) fn authority(name: &str, days: u32, moment: Moment) -> Result<Pair, MakeError> {
    let mut params = params(name, moment, moment.now_s + i64::from(days) * DAY_S);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    Ok(Pair {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// A certificate for a node, good as server and as client. It ends with its authority at the latest.
pub(crate) fn node(ca: &Pair, names: &NodeNames, days: u32, moment: Moment) -> Result<Pair, MakeError> {
    let subject = format!("node {} of region {}", names.broker, names.region);
    let key = KeyPair::generate()?;
    let certificate = signed(ca, &subject, names.names()?, &key, days, moment)?;
    Ok(Pair {
        certificate,
        key: key.serialize_pem(),
    })
}

/// A certificate for the same names and the same key.
pub(crate) fn renewed(ca: &Pair, old: &Pair, days: u32, moment: Moment) -> Result<String, MakeError> {
    let facts = facts(NODE, &old.certificate)?;
    let key = read_key(NODE_KEY, &old.key)?;
    if key.public_key_raw() != facts.public_key {
        return Err(MakeError::Content {
            what: NODE_KEY,
            problem: "it is not that of the certificate".to_owned(),
        });
    }
    let mut names = Vec::new();
    for name in &facts.names {
        names.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => dns_name(name)?,
        });
    }
    signed(ca, &facts.subject, names, &key, days, moment)
}

/// What a node's certificate says.
pub(crate) fn node_facts(certificate: &str) -> Result<Facts, MakeError> {
    facts(NODE, certificate)
}

fn signed(
    ca: &Pair,
    subject: &str,
    names: Vec<SanType>,
    key: &KeyPair,
    days: u32,
    moment: Moment,
) -> Result<String, MakeError> {
    let authority = facts(CA, &ca.certificate)?;
    let ca_key = read_key(CA_KEY, &ca.key)?;
    if !authority.is_authority {
        return Err(MakeError::Authority(
            "is an ordinary certificate, which signs nothing".to_owned(),
        ));
    }
    if ca_key.public_key_raw() != authority.public_key {
        return Err(MakeError::Authority(
            "has another key than the one beside it".to_owned(),
        ));
    }
    if authority.expires_s <= moment.now_s {
        return Err(MakeError::Authority("has expired: make another one".to_owned()));
    }
    let expires_s = authority.expires_s.min(moment.now_s + i64::from(days) * DAY_S);
    let mut params = params(subject, moment, expires_s);
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key)?;
    Ok(params.signed_by(key, &issuer)?.pem())
}

fn params(subject: &str, moment: Moment, expires_s: i64) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Meridian");
    name.push(DnType::CommonName, subject);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(moment.serial());
    params.not_before = at(moment.now_s - BACKDATED_S);
    params.not_after = at(expires_s);
    params
}

fn read_key(what: &'static str, pem: &str) -> Result<KeyPair, MakeError> {
    KeyPair::from_pem(pem).map_err(|error| MakeError::Content {
        what,
        problem: format!("expected a private key in PEM: {error}"),
    })
}

fn facts(what: &'static str, pem: &str) -> Result<Facts, MakeError> {
    let wrong = |problem: String| MakeError::Content { what, problem };
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| wrong(format!("expected a certificate in PEM: {error}")))?;
    let certificate = parse(&pem).map_err(|problem| wrong(format!("expected a certificate: {problem}")))?;
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|error| wrong(format!("its names cannot be read: {error}")))?;
    let names = alternative.iter().flat_map(|names| &names.value.general_names);
    let common_name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    Ok(Facts {
        names: names.filter_map(name_text).collect(),
        expires_s: certificate.validity().not_after.timestamp(),
        is_authority: certificate.is_ca(),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        subject: common_name.unwrap_or("a node").to_owned(),
    })
}

fn parse(pem: &Pem) -> Result<X509Certificate<'_>, String> {
    pem.parse_x509().map_err(|error| error.to_string())
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(*octets).ok().map(IpAddr::from),
            _ => None,
        }
        .map(|ip| ip.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment {
        now_s: 1_795_000_000,
        serial: 7,
    };

    fn names() -> NodeNames {
        NodeNames {
            region: "us".to_owned(),
            broker: 100_002,
            hosts: ["127.0.0.1", "::1", "a.example"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn a_nodes_certificate_names_it_and_its_hosts() {
        let ca = authority("west", 100, NOW).expect("an authority");
        let pair = node(&ca, &names(), 10, NOW).expect("a certificate");
        let facts = node_facts(&pair.certificate).expect("readable");
        assert_eq!(
            facts.names,
            ["node-100002.us.meridian", "127.0.0.1", "::1", "a.example"]
        );
        assert_eq!(facts.expires_s, NOW.now_s + 10 * DAY_S);
        assert!(!facts.is_authority);
    }

    #[test]
    fn a_renewed_certificate_differs_in_its_time_and_number_only() {
        let ca = authority("west", 1000, NOW).expect("an authority");
        let old = node(&ca, &names(), 10, NOW).expect("a certificate");
        let later = Moment {
            now_s: NOW.now_s + 5 * DAY_S,
            serial: 8,
        };
        let new = renewed(&ca, &old, 10, later).expect("renewed");
        let (before, after) = (
            node_facts(&old.certificate).expect("readable"),
            node_facts(&new).expect("readable"),
        );
        assert_eq!(after.expires_s, before.expires_s + 5 * DAY_S);
        assert_eq!(
            Facts {
                expires_s: before.expires_s,
                ..after
            },
            before
        );
        let other = node(&ca, &names(), 10, NOW).expect("a certificate");
        let mixed = Pair {
            certificate: old.certificate,
            key: other.key,
        };
        assert!(renewed(&ca, &mixed, 10, later).is_err(), "another key");
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let ca = authority("west", 5, NOW).expect("an authority");
        let pair = node(&ca, &names(), 10, NOW).expect("a certificate");
        let facts = node_facts(&pair.certificate).expect("readable");
        assert_eq!(facts.expires_s, NOW.now_s + 5 * DAY_S);
        let after = Moment {
            now_s: NOW.now_s + 6 * DAY_S,
            serial: 8,
        };
        let error = node(&ca, &names(), 10, after).err().expect("refused");
        assert!(error.to_string().contains("expired"), "{error}");
    }

    #[test]
    fn only_an_authority_with_its_own_key_signs() {
        let ca = authority("west", 100, NOW).expect("an authority");
        let other = authority("east", 100, NOW).expect("an authority");
        let ordinary = node(&ca, &names(), 10, NOW).expect("a certificate");
        let mixed = Pair {
            certificate: ca.certificate.clone(),
            key: other.key,
        };
        for (ca, reason) in [(&ordinary, "ordinary"), (&mixed, "another key")] {
            let error = node(ca, &names(), 10, NOW).err().expect("refused");
            assert!(error.to_string().contains(reason), "{error}");
        }
        for pem in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let damaged = Pair {
                certificate: pem.to_owned(),
                key: ca.key.clone(),
            };
            let error = node(&damaged, &names(), 10, NOW).err().expect("refused");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_refused() {
        let ca = authority("west", 100, NOW).expect("an authority");
        for (region, host) in [("a b", "h"), ("", "h"), ("-x", "h"), ("us", "h/x"), ("us", "")] {
            let names = NodeNames {
                region: region.to_owned(),
                broker: 1,
                hosts: vec![host.to_owned()],
            };
            let error = node(&ca, &names, 10, NOW).err().expect("refused");
            assert!(error.to_string().contains("expected"), "{error}");
        }
    }
}

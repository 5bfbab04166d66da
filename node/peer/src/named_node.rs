//! Which nodes a certificate may speak for.

use meridian_types::NodeId;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// What the DNS names end in that stand for nodes: `node-7.west.meridian` is node 7 of region `west`.
const DOMAIN: &str = ".meridian";

/// Whether a certificate that its authority vouches for may speak for `node` of `region`. One that names no node may
/// speak for any.
///
/// Errors: which nodes it names instead, for the operator.
pub(crate) fn check(certificate: &CertificateDer<'_>, region: &str, node: NodeId) -> Result<(), String> {
    let certificate = EndEntityCert::try_from(certificate)
        .map_err(|error| format!("the other side's certificate cannot be read: {error}"))?;
    let names: Vec<_> = certificate
        .valid_dns_names()
        .filter(|name| is_node(name))
        .collect();
    let wanted = format!("node-{node}.{region}{DOMAIN}");
    if names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(&wanted)) {
        return Ok(());
    }
    let names = names.join(", ");
    Err(format!(
        "the other side says that it is node {node} of region `{region}`, and its certificate is that of {names}: \
         give it a certificate that names {wanted}, or no node"
    ))
}

fn is_node(name: &str) -> bool {
    let Some(start) = name.len().checked_sub(DOMAIN.len()) else {
        return false;
    };
    let is_in_domain = name
        .get(start..)
        .is_some_and(|end| end.eq_ignore_ascii_case(DOMAIN));
    is_in_domain
        && name
            .get(..5)
            .is_some_and(|begin| begin.eq_ignore_ascii_case("node-"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn a_certificate_that_names_nodes_speaks_for_these_only() {
        let named = certificate(&[
            "10.0.0.7",
            "b.example",
            "Node-7.West.meridian",
            "node-8.west.meridian",
        ]);
        for (node, region, may) in [
            (7, "west", true),
            (8, "west", true),
            (7, "WEST", true),
            (70, "west", false),
            (1, "west", false),
            (7, "east", false),
        ] {
            let checked = check(&named, region, NodeId(node));
            assert_eq!(checked.is_ok(), may, "{node} of {region}: {checked:?}");
        }
        let text = check(&named, "west", NodeId(1)).expect_err("another");
        assert!(text.contains("node-8.west.meridian"), "{text}");
    }

    #[test]
    fn a_certificate_without_a_node_speaks_for_any() {
        let unnamed = certificate(&["127.0.0.1", "node-2.example", "meridian", "x.meridian"]);
        assert_eq!(check(&unnamed, "west", NodeId(1)), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        assert!(check(&CertificateDer::from(vec![1, 2, 3]), "west", NodeId(1)).is_err());
    }
}

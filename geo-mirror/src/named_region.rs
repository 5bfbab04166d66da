//! Which nodes of which regions a certificate may speak for.

use meridian_types::NodeId;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// What the DNS names end in that stand for nodes: `node-100002.west.meridian` is node 100002 of region `west`.
const DOMAIN: &str = ".meridian";

/// Whether a certificate that its authority vouches for may speak for `node` of `region`.
///
/// Unlike between the nodes of a region, it must name the node: the authority is that of all regions, and a stolen key
/// must be worth one node.
/// Errors: which names it has instead, for the operator.
pub(crate) fn check(certificate: &CertificateDer<'_>, region: &str, node: NodeId) -> Result<(), String> {
    let certificate = EndEntityCert::try_from(certificate)
        .map_err(|error| format!("the other side's certificate cannot be read: {error}"))?;
    let names: Vec<_> = certificate
        .valid_dns_names()
        .filter(|name| is_node(name))
        .collect();
    let wanted = format!("node-{node}.{region}{DOMAIN}");
    if names.iter().any(|name| name.eq_ignore_ascii_case(&wanted)) {
        return Ok(());
    }
    let found = if names.is_empty() {
        "names no node".to_owned()
    } else {
        format!("is that of {}", names.join(", "))
    };
    Err(format!(
        "the other side says that it is node {node} of region `{region}`, and its certificate {found}: \
         give it a certificate that names {wanted}"
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
    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        made.cert.der().clone()
    }

    #[test]
    fn a_certificate_speaks_for_the_nodes_that_it_names_and_for_no_other() {
        let named = certificate(&["10.0.0.7", "b.example", "Node-100007.West.meridian"]);
        for (node, region, may) in [
            (100_007, "west", true),
            (100_007, "WEST", true),
            (7, "west", false),
            (100_007, "east", false),
        ] {
            let checked = check(&named, region, NodeId(node));
            assert_eq!(checked.is_ok(), may, "{node} of {region}: {checked:?}");
        }
        let unnamed = certificate(&["127.0.0.1", "localhost"]);
        let text = check(&unnamed, "west", NodeId(1)).expect_err("no name");
        assert!(text.contains("node-1.west.meridian"), "{text}");
        assert!(check(&CertificateDer::from(vec![1, 2, 3]), "west", NodeId(1)).is_err());
    }
}

//! Where certificates and keys lie: two or three files in a directory.

use std::path::{Path, PathBuf};

use super::disk;
use super::make::Pair;
use crate::error::CliError;

/// A file, and whether only its owner may read it.
struct Part<'a> {
    name: &'static str,
    content: &'a str,
    is_secret: bool,
}

/// The files of a node, as the settings of TLS want them.
#[derive(Clone, Debug)]
pub(crate) struct NodeFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const NODE: &str = "node.pem";
const NODE_KEY: &str = "node-key.pem";

impl NodeFiles {
    /// Those in `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            certificate: directory.join(NODE),
            key: directory.join(NODE_KEY),
            ca: directory.join(CA),
        }
    }
}

/// The files of an authority in `directory` that are there already.
pub(crate) fn authority_there(directory: &Path) -> Vec<&'static str> {
    there(directory, &[CA, CA_KEY])
}

/// The files of a node in `directory` that are there already.
pub(crate) fn node_there(directory: &Path) -> Vec<&'static str> {
    there(directory, &[NODE, NODE_KEY])
}

fn there(directory: &Path, names: &[&'static str]) -> Vec<&'static str> {
    let is_there = |name: &&&'static str| directory.join(name).exists();
    names.iter().filter(is_there).copied().collect()
}

/// Writes an authority. Replaces what is there.
pub(crate) fn write_authority(directory: &Path, authority: &Pair) -> Result<(), CliError> {
    let parts = [
        Part {
            name: CA_KEY,
            content: &authority.key,
            is_secret: true,
        },
        Part {
            name: CA,
            content: &authority.certificate,
            is_secret: false,
        },
    ];
    write(directory, &parts)
}

/// Writes a node's certificate and key, and the certificate of its authority beside them. Replaces what is there.
pub(crate) fn write_node(directory: &Path, node: &Pair, authority: &str) -> Result<(), CliError> {
    let parts = [
        Part {
            name: CA,
            content: authority,
            is_secret: false,
        },
        Part {
            name: NODE_KEY,
            content: &node.key,
            is_secret: true,
        },
        Part {
            name: NODE,
            content: &node.certificate,
            is_secret: false,
        },
    ];
    write(directory, &parts)
}

/// Replaces a node's certificate: one file, whole, so that whoever reads it meanwhile has the one or the other.
pub(crate) fn write_renewed(directory: &Path, certificate: &str) -> Result<(), CliError> {
    let part = Part {
        name: NODE,
        content: certificate,
        is_secret: false,
    };
    write(directory, &[part])
}

/// Reads an authority.
pub(crate) fn read_authority(directory: &Path) -> Result<Pair, CliError> {
    let pair = read(directory, CA, CA_KEY);
    pair.map_err(|error| error.advise("name the directory that `meridian cert ca --out` made with --ca"))
}

/// Reads a node's certificate and key.
pub(crate) fn read_node(directory: &Path) -> Result<Pair, CliError> {
    let pair = read(directory, NODE, NODE_KEY);
    pair.map_err(|error| error.advise("name the directory that `meridian cert node --out` made with --cert"))
}

fn read(directory: &Path, certificate: &str, key: &str) -> Result<Pair, CliError> {
    let read = |name: &str| {
        let path = directory.join(name);
        disk::read(&path)
            .map_err(|error| CliError::failed(format!("cannot read {}: {error}", path.display())))
    };
    Ok(Pair {
        certificate: read(certificate)?,
        key: read(key)?,
    })
}

fn write(directory: &Path, parts: &[Part<'_>]) -> Result<(), CliError> {
    for part in parts {
        disk::write(directory, part.name, part.content, part.is_secret).map_err(|error| {
            let path = directory.join(part.name);
            CliError::failed(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

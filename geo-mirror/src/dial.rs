//! Opens connections to nodes of other regions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::ConnectionError;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::frame::{Frame, Greeting, Intent, Reject, VERSIONS};
use crate::greet::{answer, check_certificate, judge, say};
use crate::hello::Hello;
use crate::lane::{Lane, LaneError};
use crate::network::{Network, host_port, outgoing};
use crate::quic;
use crate::settings::Settings;
use crate::status::Transport;
use crate::tcp;
use crate::tls::GeoTls;

/// Why a node of another region cannot be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address is wrong: correct the setting.
    #[error("{0}")]
    Address(String),
    /// Nobody answers there: see whether the node runs and the network lets both UDP and TCP through.
    #[error("{address} does not answer over {transport}: {reason}")]
    Unreachable {
        /// Who.
        address: String,
        /// What was tried.
        transport: &'static str,
        /// What the network said.
        reason: String,
    },
    /// The two sides do not trust one another: look at the certificates.
    #[error("TLS with {address}: {reason}")]
    Tls {
        /// Who.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// The other side, or this one, finds that the two do not fit together.
    #[error("{address} does not fit: {reason}")]
    Rejected {
        /// Who.
        address: String,
        /// In one word.
        reject: Reject,
        /// For people.
        reason: String,
    },
    /// What answers is no node, or speaks otherwise.
    #[error("{address}: {reason}")]
    Protocol {
        /// Who.
        address: String,
        /// What was wrong.
        reason: String,
    },
}

impl DialError {
    /// Whether another transport may do better.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Asks a node of another region who it is. `own` need not know the cluster's id and shards.
///
/// Tries QUIC, then TCP, as `settings` say.
pub async fn ask(
    settings: &Settings,
    tls: &GeoTls,
    network: Arc<dyn Network>,
    own: Hello,
    address: &str,
) -> Result<Hello, DialError> {
    use crate::settings::TransportSetting::{Auto, Quic, Tcp};

    let dialler = Dialler::new(settings.clone(), tls.clone(), network);
    let greeting = dialler.greeting(Intent::Question, 0, own);
    let first = match settings.transport {
        Tcp => dialler.dial(address, Transport::Tcp, &greeting).await,
        Auto | Quic => dialler.dial(address, Transport::Quic, &greeting).await,
    };
    match first {
        Err(error) if error.is_unreachable() && settings.transport == Auto => {
            Ok(dialler.dial(address, Transport::Tcp, &greeting).await?.1)
        }
        other => Ok(other?.1),
    }
}

/// What is needed to dial.
pub(crate) struct Dialler {
    pub(crate) settings: Settings,
    pub(crate) tls: GeoTls,
    network: Arc<dyn Network>,
    random: Mutex<StdRng>,
}

impl Dialler {
    pub(crate) fn new(settings: Settings, tls: GeoTls, network: Arc<dyn Network>) -> Self {
        let random = Mutex::new(StdRng::from_seed(settings.seed));
        Self {
            settings,
            tls,
            network,
            random,
        }
    }

    /// A number at random.
    pub(crate) fn chance(&self) -> u32 {
        self.random.lock().next_u32()
    }

    /// The name of a new link.
    pub(crate) fn session(&self) -> u128 {
        let mut random = self.random.lock();
        u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
    }

    pub(crate) fn greeting(&self, intent: Intent, session: u128, hello: Hello) -> Greeting {
        Greeting {
            versions: VERSIONS,
            intent,
            session,
            hello,
        }
    }

    /// Opens a connection and greets. The other side fits when this returns.
    pub(crate) async fn dial(
        &self,
        address: &str,
        transport: Transport,
        greeting: &Greeting,
    ) -> Result<(Lane, Hello), DialError> {
        let (host, port) = host_port(address).map_err(DialError::Address)?;
        let name = match transport {
            Transport::Quic => "QUIC (UDP)",
            Transport::Tcp => "TCP",
        };
        let unreachable = |reason: String| DialError::Unreachable {
            address: address.to_owned(),
            transport: name,
            reason,
        };
        let patience = match transport {
            Transport::Quic => self.settings.quic_timeout,
            Transport::Tcp => self.settings.handshake_timeout,
        };
        let opening = async {
            let found = self.network.resolve(host, port).await;
            let addresses = found.map_err(|error| unreachable(error.to_string()))?;
            let mut failure = unreachable("the name has no address".to_owned());
            for to in addresses {
                self.check_security(address, to)?;
                let opened = match transport {
                    Transport::Quic => self.open_quic(address, host, to).await,
                    Transport::Tcp => self.open_tcp(address, host, to).await,
                };
                match opened {
                    Err(error) if error.is_unreachable() => failure = error,
                    other => return other,
                }
            }
            Err(failure)
        };
        let mut lane = timeout(patience, opening)
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("no answer for {patience:?}"))))?;
        let introduced = timeout(
            self.settings.handshake_timeout,
            self.introduce(address, &mut lane, greeting),
        );
        let hello = introduced
            .await
            .unwrap_or_else(|_| Err(unreachable("it does not greet".to_owned())))?;
        Ok((lane, hello))
    }

    fn check_security(&self, address: &str, to: SocketAddr) -> Result<(), DialError> {
        let is_safe = self.tls.is_authenticated() || to.ip().is_loopback();
        if is_safe || self.settings.is_insecure_allowed {
            return Ok(());
        }
        Err(DialError::Tls {
            address: address.to_owned(),
            reason:
                "it is not on this machine, and there are no certificates: set geo.tls_cert, geo.tls_key and \
                     geo.tls_ca, or allow it with --insecure"
                    .to_owned(),
        })
    }

    async fn open_quic(&self, address: &str, host: &str, to: SocketAddr) -> Result<Lane, DialError> {
        let unreachable = |reason: String| DialError::Unreachable {
            address: address.to_owned(),
            transport: "QUIC (UDP)",
            reason,
        };
        let from = outgoing(self.settings.bind, to);
        let endpoint = quic::endpoint(self.network.as_ref(), from, None)
            .map_err(|error| unreachable(format!("no socket at {}: {error}", from.ip())))?;
        let mut config = quinn::ClientConfig::new(self.tls.current.load().quic_client.clone());
        config.transport_config(quic::transport(&self.settings, true));
        let connecting = endpoint
            .connect_with(config, to, host)
            .map_err(|error| DialError::Address(format!("{address}: {error}")))?;
        let connection = connecting.await.map_err(|error| lost(address, &error))?;
        let (writer, reader) = connection
            .open_bi()
            .await
            .map_err(|error| lost(address, &error))?;
        Ok(quic::lane(
            connection,
            writer,
            reader,
            self.tls.is_authenticated(),
        ))
    }

    async fn open_tcp(&self, address: &str, host: &str, to: SocketAddr) -> Result<Lane, DialError> {
        let from = outgoing(self.settings.bind, to);
        let stream = self.network.connect(from.ip(), to).await;
        let stream = stream.map_err(|error| DialError::Unreachable {
            address: address.to_owned(),
            transport: "TCP",
            reason: error.to_string(),
        })?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            DialError::Address(format!(
                "`{host}` is neither an IP address nor a name that a certificate can hold"
            ))
        })?;
        let connector = self.tls.current.load().connector.clone();
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| trouble(address, &error))?;
        Ok(tcp::lane(
            TlsStream::from(stream),
            to,
            self.tls.is_authenticated(),
        ))
    }

    async fn introduce(
        &self,
        address: &str,
        lane: &mut Lane,
        greeting: &Greeting,
    ) -> Result<Hello, DialError> {
        let idle = self.settings.handshake_timeout;
        let greeted = async {
            say(lane, &Frame::Hello(greeting.clone()), idle).await?;
            answer(lane, idle).await
        };
        let frame = match greeted.await {
            Ok(frame) => frame,
            Err(error) => {
                // With TLS 1.3 a side learns late that its certificate was not liked.
                let reason = lane.quic.as_ref().and_then(quinn::Connection::close_reason);
                return Err(match (reason, error) {
                    (Some(reason), _) => lost(address, &reason),
                    (None, LaneError::Io(error)) => trouble(address, &error),
                    (None, other) => DialError::Protocol {
                        address: address.to_owned(),
                        reason: other.to_string(),
                    },
                });
            }
        };
        let rejected = |(reject, reason)| DialError::Rejected {
            address: address.to_owned(),
            reject,
            reason,
        };
        match frame {
            Frame::Rejected { reject, reason } => Err(rejected((reject, reason))),
            Frame::Hello(theirs) => {
                let theirs = Greeting {
                    intent: greeting.intent,
                    ..theirs
                };
                judge(&greeting.hello, &theirs).map_err(rejected)?;
                check_certificate(lane, &theirs.hello).map_err(|reason| DialError::Tls {
                    address: address.to_owned(),
                    reason,
                })?;
                Ok(theirs.hello)
            }
            other => Err(DialError::Protocol {
                address: address.to_owned(),
                reason: format!("it answered with a frame of type {}", other.type_byte()),
            }),
        }
    }
}

/// What the end of a connection of QUIC says.
fn lost(address: &str, error: &ConnectionError) -> DialError {
    let address = address.to_owned();
    // Errors of TLS are 0x100 and the alert's number.
    let is_tls = |code: u64| (0x100..0x200).contains(&code);
    match error {
        ConnectionError::TransportError(error) if is_tls(error.code.into()) => DialError::Tls {
            address,
            reason: error.to_string(),
        },
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code.into()) => DialError::Tls {
            address,
            reason: format!("the other side broke off: {close}"),
        },
        ConnectionError::ApplicationClosed(close) => DialError::Rejected {
            address,
            reject: Reject::Other,
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        other => DialError::Unreachable {
            address,
            transport: "QUIC (UDP)",
            reason: other.to_string(),
        },
    }
}

/// What an error of I/O under TLS says.
fn trouble(address: &str, error: &io::Error) -> DialError {
    let address = address.to_owned();
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(tls) => DialError::Tls {
            address,
            reason: tls.to_string(),
        },
        None => DialError::Unreachable {
            address,
            transport: "TCP",
            reason: error.to_string(),
        },
    }
}

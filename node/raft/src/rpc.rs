//! Bytes of the calls between the replicas of a group.
//!
//! Drawn in `docs/formats/raft-rpc.md`. Integers are little endian. Lengths and counts are checked against what is
//! left of the message before anything is allocated, and what openraft would stop at is refused here: an
//! uncommitted leader, a gap between entries, a position beyond any log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_journal::{self as journal, Payload};
use meridian_types::{LogPosition, NodeId, RaftIndex, Term};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec::{self, CodecError, VOTE_BYTES, put_vote, unreadable};
use crate::config::{LogId, Types, Vote, log_id, node_id, position};

/// The calls of this crate among those of a node: `0x0100..=0x01ff`.
pub(crate) mod kind {
    pub(crate) const VOTE: u16 = 0x0100;
    pub(crate) const PRE_VOTE: u16 = 0x0101;
    pub(crate) const APPEND: u16 = 0x0102;
    pub(crate) const SNAPSHOT: u16 = 0x0103;
    pub(crate) const TRANSFER: u16 = 0x0104;
}

/// The version of every message here.
const VERSION: u8 = 1;
/// Entries of one append. A leader sends far fewer.
const ENTRIES_MAX: usize = 4096;
/// Term and length.
const ENTRY_HEAD_BYTES: usize = 8 + 4;
/// The journal takes no higher term or index.
const POSITION_MAX: u64 = u64::MAX / 2;

/// A call, decoded.
#[derive(Debug)]
pub(crate) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Append(Append),
    Snapshot(Chunk),
    Transfer(TransferLeaderRequest<Types>),
}

/// Entries from a leader.
#[derive(Debug)]
pub(crate) struct Append {
    /// Which run of appends it belongs to; they are carried out in their order. 0: it stands alone.
    pub(crate) stream: u64,
    /// Bytes of all entries.
    pub(crate) payload_bytes: usize,
    pub(crate) request: AppendEntriesRequest<Types>,
}

/// A piece of a checkpoint's file.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) vote: Vote,
    /// Names one attempt to send one file.
    pub(crate) transfer: u64,
    /// Where in the file this piece belongs.
    pub(crate) at: u64,
    /// Length of the whole file.
    pub(crate) file_bytes: u64,
    pub(crate) bytes: Bytes,
}

impl Request {
    pub(crate) fn decode(kind: u16, body: Bytes) -> Result<Self, CodecError> {
        match kind {
            kind::VOTE => Ok(Self::Vote(decode_vote_request(body)?)),
            kind::PRE_VOTE => Ok(Self::PreVote(decode_vote_request(body)?)),
            kind::APPEND => Ok(Self::Append(decode_append(body)?)),
            kind::SNAPSHOT => Ok(Self::Snapshot(decode_chunk(body)?)),
            kind::TRANSFER => Ok(Self::Transfer(decode_transfer(body)?)),
            other => Err(unreadable("call", format!("unknown kind {other:#06x}"))),
        }
    }
}

pub(crate) fn encode_vote_request(request: &VoteRequest<Types>) -> Bytes {
    let mut bytes = start(VOTE_BYTES + 17 + 1);
    put_vote(&mut bytes, &request.vote);
    put_log_id(&mut bytes, request.last_log_id.as_ref());
    bytes.put_u8(u8::from(request.leadership_transfer));
    bytes.freeze()
}

fn decode_vote_request(body: Bytes) -> Result<VoteRequest<Types>, CodecError> {
    let mut reader = Reader::new("vote request", body)?;
    let request = VoteRequest::<Types> {
        vote: reader.vote()?,
        last_log_id: reader.log_id()?,
        leadership_transfer: reader.flag()?,
    };
    if request.vote.committed {
        return Err(reader.wrong("the candidate says that it is elected already"));
    }
    reader.end()?;
    Ok(request)
}

pub(crate) fn encode_vote_response(response: &VoteResponse<Types>) -> Bytes {
    let mut bytes = start(VOTE_BYTES + 1 + 17);
    put_vote(&mut bytes, &response.vote);
    bytes.put_u8(u8::from(response.vote_granted));
    put_log_id(&mut bytes, response.last_log_id.as_ref());
    bytes.freeze()
}

pub(crate) fn decode_vote_response(body: Bytes) -> Result<VoteResponse<Types>, CodecError> {
    let mut reader = Reader::new("vote response", body)?;
    let response = VoteResponse {
        vote: reader.vote()?,
        vote_granted: reader.flag()?,
        last_log_id: reader.log_id()?,
    };
    reader.end()?;
    Ok(response)
}

/// The head of the message, then the entries' payloads as they are. Also returns the bytes of all of them.
pub(crate) fn encode_append(stream: u64, request: AppendEntriesRequest<Types>) -> (Vec<Bytes>, usize) {
    let entries = request.entries.len();
    let mut head = start(8 + VOTE_BYTES + 2 * 17 + 4 + entries * ENTRY_HEAD_BYTES);
    head.put_u64_le(stream);
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.prev_log_id.as_ref());
    put_log_id(&mut head, request.leader_commit.as_ref());
    head.put_u32_le(u32::try_from(entries).expect("openraft sends some hundred entries"));
    let mut parts = vec![Bytes::new()];
    for entry in request.entries {
        let entry = codec::encode_entry(entry);
        head.put_u64_le(entry.position.term.0);
        head.put_u32_le(u32::try_from(entry.payload.len()).expect("the journal takes no longer payloads"));
        parts.extend(entry.payload.parts().iter().cloned());
    }
    parts[0] = head.freeze();
    let bytes = parts.iter().map(Bytes::len).sum();
    (parts, bytes)
}

fn decode_append(body: Bytes) -> Result<Append, CodecError> {
    let mut reader = Reader::new("append", body)?;
    let stream = reader.u64()?;
    let vote = reader.vote()?;
    if !vote.committed {
        return Err(reader.wrong("the sender was not elected"));
    }
    let prev_log_id = reader.log_id()?;
    let leader_commit = reader.log_id()?;
    let count = reader.u32()? as usize;
    if count > ENTRIES_MAX {
        return Err(reader.wrong(format!("{count} entries, at most {ENTRIES_MAX} are expected")));
    }
    let mut heads = reader.take(count * ENTRY_HEAD_BYTES)?;
    let first = prev_log_id.as_ref().map_or(0, |prev| position(prev).index.0 + 1);
    let mut term_before = prev_log_id.as_ref().map_or(0, |prev| position(prev).term.0);
    let mut entries = Vec::with_capacity(count);
    for index in (first..).take(count) {
        let (term, length) = (heads.get_u64_le(), heads.get_u32_le() as usize);
        if term < term_before || term > vote.leader_id.term || index > POSITION_MAX {
            return Err(reader.wrong(format!(
                "an entry at {index} of term {term}, after term {term_before}, from a leader of term {}",
                vote.leader_id.term
            )));
        }
        let payload = reader.take(length)?;
        entries.push(codec::decode_entry(&journal::Entry {
            position: LogPosition {
                term: Term(term),
                index: RaftIndex(index),
            },
            payload: Payload::from(payload),
        })?);
        term_before = term;
    }
    let payload_bytes = reader.taken - count * ENTRY_HEAD_BYTES;
    reader.end()?;
    Ok(Append {
        stream,
        payload_bytes,
        request: AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        },
    })
}

const APPENDED: u8 = 0;
const CONFLICT: u8 = 1;
const HIGHER_VOTE: u8 = 2;

pub(crate) fn encode_append_response(result: &StreamAppendResult<Types>) -> Bytes {
    let mut bytes = start(1 + VOTE_BYTES);
    match result {
        Ok(_) => bytes.put_u8(APPENDED),
        Err(StreamAppendError::Conflict(_)) => bytes.put_u8(CONFLICT),
        Err(StreamAppendError::HigherVote(vote)) => {
            bytes.put_u8(HIGHER_VOTE);
            put_vote(&mut bytes, vote);
        }
    }
    bytes.freeze()
}

/// The answer to an append of the entries after `prev`, up to `last`. What matches or conflicts is taken from
/// the request: the other node says only which of them it is.
pub(crate) fn decode_append_response(
    body: Bytes,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<Types>, CodecError> {
    let mut reader = Reader::new("append response", body)?;
    let result = match (reader.u8()?, prev) {
        (APPENDED, _) => Ok(last),
        (CONFLICT, Some(prev)) => Err(StreamAppendError::Conflict(prev)),
        (CONFLICT, None) => return Err(reader.wrong("a conflict with the log's very beginning")),
        (HIGHER_VOTE, _) => Err(StreamAppendError::HigherVote(reader.vote()?)),
        (other, _) => return Err(reader.wrong(format!("outcome {other}"))),
    };
    reader.end()?;
    Ok(result)
}

pub(crate) fn encode_chunk(chunk: Chunk) -> Vec<Bytes> {
    let mut bytes = start(VOTE_BYTES + 3 * 8);
    put_vote(&mut bytes, &chunk.vote);
    bytes.put_u64_le(chunk.transfer);
    bytes.put_u64_le(chunk.at);
    bytes.put_u64_le(chunk.file_bytes);
    vec![bytes.freeze(), chunk.bytes]
}

fn decode_chunk(body: Bytes) -> Result<Chunk, CodecError> {
    let mut reader = Reader::new("snapshot", body)?;
    let vote = reader.vote()?;
    if !vote.committed {
        return Err(reader.wrong("the sender was not elected"));
    }
    let (transfer, at, file_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let bytes = reader.bytes;
    let end = at.checked_add(bytes.len() as u64);
    if bytes.is_empty() || end.is_none_or(|end| end > file_bytes) {
        let reason = format!("{} bytes at {at} of a file of {file_bytes}", bytes.len());
        return Err(unreadable("snapshot", reason));
    }
    Ok(Chunk {
        vote,
        transfer,
        at,
        file_bytes,
        bytes,
    })
}

pub(crate) fn encode_snapshot_response(response: &SnapshotResponse<Types>) -> Bytes {
    let mut bytes = start(VOTE_BYTES);
    put_vote(&mut bytes, &response.vote);
    bytes.freeze()
}

pub(crate) fn decode_snapshot_response(body: Bytes) -> Result<SnapshotResponse<Types>, CodecError> {
    let mut reader = Reader::new("snapshot response", body)?;
    let response = SnapshotResponse::new(reader.vote()?);
    reader.end()?;
    Ok(response)
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<Types>) -> Bytes {
    let mut bytes = start(VOTE_BYTES + 4 + 17);
    put_vote(&mut bytes, request.from_leader());
    bytes.put_u32_le(node_id(*request.to_node_id()).0);
    put_log_id(&mut bytes, request.last_log_id());
    bytes.freeze()
}

fn decode_transfer(body: Bytes) -> Result<TransferLeaderRequest<Types>, CodecError> {
    let mut reader = Reader::new("leader transfer", body)?;
    let from = reader.vote()?;
    let to = NodeId(reader.u32()?);
    let last = reader.log_id()?;
    reader.end()?;
    Ok(TransferLeaderRequest::new(from, to.0.into(), last))
}

const ACCEPTED: u8 = 0;
const VOTE_CHANGED: u8 = 1;
const NOT_FLUSHED: u8 = 2;

pub(crate) fn encode_transfer_response(response: &TransferLeaderResponse<Types>) -> Bytes {
    let mut bytes = start(1 + 2 * 17);
    match response {
        Ok(()) => bytes.put_u8(ACCEPTED),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            bytes.put_u8(VOTE_CHANGED);
            put_vote(&mut bytes, expected);
            put_vote(&mut bytes, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            bytes.put_u8(NOT_FLUSHED);
            put_log_id(&mut bytes, expected.as_ref());
            put_log_id(&mut bytes, actual.as_ref());
        }
    }
    bytes.freeze()
}

pub(crate) fn decode_transfer_response(body: Bytes) -> Result<TransferLeaderResponse<Types>, CodecError> {
    let mut reader = Reader::new("leader transfer response", body)?;
    let response = match reader.u8()? {
        ACCEPTED => Ok(()),
        VOTE_CHANGED => Err(TransferLeaderError::VoteChanged {
            expected: reader.vote()?,
            actual: reader.vote()?,
        }),
        NOT_FLUSHED => Err(TransferLeaderError::LogNotFlushed {
            expected: reader.log_id()?,
            actual: reader.log_id()?,
        }),
        other => return Err(reader.wrong(format!("outcome {other}"))),
    };
    reader.end()?;
    Ok(response)
}

fn start(bytes: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(1 + bytes);
    buffer.put_u8(VERSION);
    buffer
}

fn put_log_id(bytes: &mut BytesMut, id: Option<&LogId>) {
    let at = id.map(position);
    bytes.put_u8(u8::from(at.is_some()));
    let at = at.unwrap_or_default();
    bytes.put_u64_le(at.term.0);
    bytes.put_u64_le(at.index.0);
}

/// What is left of a message.
struct Reader {
    what: &'static str,
    bytes: Bytes,
    /// Bytes that [`take`](Self::take) gave out.
    taken: usize,
}

impl Reader {
    fn new(what: &'static str, bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Self {
            what,
            bytes,
            taken: 0,
        };
        match reader.u8()? {
            VERSION => Ok(reader),
            other => Err(reader.wrong(format!("version {other}, this node speaks version {VERSION}"))),
        }
    }

    fn wrong(&self, reason: impl Into<String>) -> CodecError {
        unreadable(self.what, reason)
    }

    fn need(&self, bytes: usize) -> Result<(), CodecError> {
        if bytes > self.bytes.len() {
            return Err(self.wrong(format!("ends {} bytes early", bytes - self.bytes.len())));
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, CodecError> {
        self.need(bytes)?;
        self.taken += bytes;
        Ok(self.bytes.split_to(bytes))
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    fn flag(&mut self) -> Result<bool, CodecError> {
        Ok(self.u8()? != 0)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    fn vote(&mut self) -> Result<Vote, CodecError> {
        self.need(VOTE_BYTES)?;
        let vote = codec::decode_vote(self.bytes.split_to(VOTE_BYTES))?;
        if vote.leader_id.term > POSITION_MAX {
            return Err(self.wrong(format!("term {}", vote.leader_id.term)));
        }
        Ok(vote)
    }

    fn log_id(&mut self) -> Result<Option<LogId>, CodecError> {
        let known = self.flag()?;
        let at = LogPosition {
            term: Term(self.u64()?),
            index: RaftIndex(self.u64()?),
        };
        if at.term.0.max(at.index.0) >= POSITION_MAX {
            return Err(self.wrong(format!("a log position {at}")));
        }
        Ok(known.then(|| log_id(at)))
    }

    /// A longer message is of another version, or damaged.
    fn end(&self) -> Result<(), CodecError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(self.wrong(format!("{} bytes too many", self.bytes.len())))
    }
}

#[cfg(test)]
mod tests;

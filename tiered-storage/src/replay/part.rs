//! One part of an output in one of the formats.

use std::io::Write;
use std::ops::Range;

use meridian_types::Offset;
use meridian_wire::batch::RecordsError;

use super::json_lines::JsonLines;
#[cfg(feature = "arrow")]
use super::rows::{RowBuilder, schema};

/// Arrow and Parquet: a record batch, or row group, is closed at so many bytes of keys, values and headers.
#[cfg(feature = "arrow")]
const ROWS_BYTES: usize = 16 << 20;

/// Arrow: a record batch is closed at so many records.
#[cfg(feature = "arrow")]
const ROWS_MAX: usize = 64 << 10;

/// Parquet: a row group is closed at so many records.
#[cfg(feature = "parquet")]
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

/// JSON lines are written in steps of this size.
const LINES_BYTES: usize = 1 << 20;

/// The form of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Arrow IPC: files in a directory, a stream elsewhere.
    Arrow,
    /// Parquet with zstd.
    Parquet,
    /// A JSON object per line.
    JsonLines,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Arrow, Self::Parquet, Self::JsonLines];

    /// Its name, which is also the ending of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
            Self::JsonLines => "jsonl",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether this build can write it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Arrow => cfg!(feature = "arrow"),
            Self::Parquet => cfg!(feature = "parquet"),
            Self::JsonLines => true,
        }
    }

    /// Whether it can be written to something that is not a file.
    pub fn is_streamable(self) -> bool {
        match self {
            Self::Arrow | Self::JsonLines => true,
            Self::Parquet => false,
        }
    }
}

/// Where a part goes: a file, or a stream that others read while it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    File,
    Stream,
}

/// Records cannot be appended to a part.
pub(super) enum PartError {
    Records(RecordsError),
    Output(std::io::Error),
}

impl From<RecordsError> for PartError {
    fn from(error: RecordsError) -> Self {
        Self::Records(error)
    }
}

impl From<std::io::Error> for PartError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes one part. Not finished, it is no whole file.
pub(super) struct Part<W: Write + Send> {
    topics: Vec<String>,
    form: Form<W>,
    rows: u64,
}

enum Form<W: Write + Send> {
    #[cfg(feature = "arrow")]
    ArrowFile(Box<arrow_ipc::writer::FileWriter<W>>, Box<RowBuilder>),
    #[cfg(feature = "arrow")]
    ArrowStream(Box<arrow_ipc::writer::StreamWriter<W>>, Box<RowBuilder>),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::arrow::ArrowWriter<W>>, Box<RowBuilder>),
    JsonLines(W, JsonLines),
}

impl<W: Write + Send> Part<W> {
    /// Begins a part; `topics` are the names that [`Self::push`] refers to by position.
    pub(super) fn begin(
        format: Format,
        shape: Shape,
        topics: &[String],
        out: W,
    ) -> Result<Self, std::io::Error> {
        #[cfg(feature = "arrow")]
        let rows = || Box::new(RowBuilder::new(topics.iter().map(String::as_str)));
        let form = match (format, shape) {
            (Format::JsonLines, _) => Form::JsonLines(out, JsonLines::default()),
            #[cfg(feature = "arrow")]
            (Format::Arrow, Shape::File) => {
                let writer = arrow_ipc::writer::FileWriter::try_new(out, &schema()).map_err(arrow_failed)?;
                Form::ArrowFile(Box::new(writer), rows())
            }
            #[cfg(feature = "arrow")]
            (Format::Arrow, Shape::Stream) => {
                let writer =
                    arrow_ipc::writer::StreamWriter::try_new(out, &schema()).map_err(arrow_failed)?;
                Form::ArrowStream(Box::new(writer), rows())
            }
            #[cfg(feature = "parquet")]
            (Format::Parquet, _) => {
                let writer = parquet::arrow::ArrowWriter::try_new(out, schema(), Some(parquet_properties()))
                    .map_err(std::io::Error::other)?;
                Form::Parquet(Box::new(writer), rows())
            }
            #[cfg(not(all(feature = "arrow", feature = "parquet")))]
            (format, _) => {
                return Err(std::io::Error::other(format!(
                    "this build cannot write {}: it lacks the cargo feature of that name",
                    format.name()
                )));
            }
        };
        Ok(Self {
            topics: topics.to_vec(),
            form,
            rows: 0,
        })
    }

    /// Appends the records of a batch that lie in `offsets`. Returns their bytes without compression, all records of the
    /// batch counted.
    pub(super) fn push(
        &mut self,
        topic: usize,
        partition: u32,
        batch: &[u8],
        offsets: &Range<Offset>,
    ) -> Result<usize, PartError> {
        let bytes = match &mut self.form {
            Form::JsonLines(out, lines) => {
                let before = lines.rows();
                let bytes = lines.push(&self.topics[topic], partition, batch, offsets)?;
                self.rows += lines.rows() - before;
                if lines.lines().len() >= LINES_BYTES {
                    out.write_all(lines.lines())?;
                    lines.clear();
                }
                bytes
            }
            #[cfg(feature = "arrow")]
            Form::ArrowFile(_, rows) | Form::ArrowStream(_, rows) => {
                let before = rows.rows();
                let bytes = rows.push(topic, partition, batch, offsets)?;
                self.rows += (rows.rows() - before) as u64;
                bytes
            }
            #[cfg(feature = "parquet")]
            Form::Parquet(_, rows) => {
                let before = rows.rows();
                let bytes = rows.push(topic, partition, batch, offsets)?;
                self.rows += (rows.rows() - before) as u64;
                bytes
            }
        };
        #[cfg(feature = "arrow")]
        self.write_rows(false)?;
        Ok(bytes)
    }

    /// Writes what was gathered, if it is enough or `is_last`.
    #[cfg(feature = "arrow")]
    fn write_rows(&mut self, is_last: bool) -> Result<(), std::io::Error> {
        let is_due = |rows: &RowBuilder| {
            rows.rows() >= ROWS_MAX || rows.bytes() >= ROWS_BYTES || (is_last && rows.rows() > 0)
        };
        match &mut self.form {
            Form::JsonLines(..) => {}
            Form::ArrowFile(writer, rows) => {
                if is_due(rows) {
                    writer.write(&rows.finish()).map_err(arrow_failed)?;
                }
            }
            Form::ArrowStream(writer, rows) => {
                if is_due(rows) {
                    writer.write(&rows.finish()).map_err(arrow_failed)?;
                }
            }
            #[cfg(feature = "parquet")]
            Form::Parquet(writer, rows) => {
                if is_due(rows) {
                    writer.write(&rows.finish()).map_err(std::io::Error::other)?;
                    // Row groups are held in memory until they are closed.
                    if writer.in_progress_size() >= 4 * ROWS_BYTES {
                        writer.flush().map_err(std::io::Error::other)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes the rest and gives the output back, everything written to it.
    #[cfg_attr(
        not(feature = "arrow"),
        expect(unused_mut, reason = "only rows are written here")
    )]
    pub(super) fn finish(mut self) -> Result<W, std::io::Error> {
        #[cfg(feature = "arrow")]
        self.write_rows(true)?;
        let mut out = match self.form {
            Form::JsonLines(mut out, lines) => {
                out.write_all(lines.lines())?;
                out
            }
            #[cfg(feature = "arrow")]
            Form::ArrowFile(mut writer, _) => {
                writer.finish().map_err(arrow_failed)?;
                writer.into_inner().map_err(arrow_failed)?
            }
            #[cfg(feature = "arrow")]
            Form::ArrowStream(mut writer, _) => {
                writer.finish().map_err(arrow_failed)?;
                writer.into_inner().map_err(arrow_failed)?
            }
            #[cfg(feature = "parquet")]
            Form::Parquet(writer, _) => writer.into_inner().map_err(std::io::Error::other)?,
        };
        out.flush()?;
        Ok(out)
    }
}

#[cfg(feature = "arrow")]
fn arrow_failed(error: arrow_schema::ArrowError) -> std::io::Error {
    match error {
        // Keeps the kind: a reader that went away is no failure to speak of.
        arrow_schema::ArrowError::IoError(_, error) => error,
        other => std::io::Error::other(other),
    }
}

#[cfg(feature = "parquet")]
fn parquet_properties() -> parquet::file::properties::WriterProperties {
    use parquet::basic::{Compression, ZstdLevel};
    parquet::file::properties::WriterProperties::builder()
        .set_created_by(format!("meridian {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .build()
}

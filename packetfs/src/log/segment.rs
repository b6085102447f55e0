//! The files of a log: `NNNNNNNN.log`, numbered from 1 on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::error::{Flaw, LogError};
use super::header::{HEADER_BYTES, Header, VERSION};
use super::place::Place;

/// Most bytes of a segment. It is read into memory as a whole.
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;
/// The same for another node's events, of which there may be few.
pub(super) const FOREIGN_SEGMENT_BYTES: u64 = 4 << 20;
/// Zeros are looked for in blocks of this length.
const BLOCK_BYTES: usize = 4096;
const FILE_MODE: u32 = 0o600;
/// The name of a segment until it is complete.
const NEW: &str = "new";

/// What a segment begins with: a header, or nothing if it was made ahead of need.
pub(super) type Begins = Result<Option<Header>, Flaw>;

/// The directory of a log's segments.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    dir: PathBuf,
    /// Most bytes of a segment.
    pub(super) bytes_max: u64,
}

impl Segments {
    pub(super) fn new(dir: &Path, bytes_max: u64) -> Self {
        Self { dir: dir.to_owned(), bytes_max }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08}.log"))
    }

    /// Reads what the segments begin with, without those that a recovery has cut off.
    pub(super) fn headers(&self) -> Result<BTreeMap<u32, Begins>, LogError> {
        let mut headers = BTreeMap::new();
        let mut next = None::<Header>;
        for number in self.numbers()?.into_iter().rev() {
            if next.is_some_and(|next| number > next.before.place.segment) {
                continue;
            }
            let begins = self.header(number)?;
            next = begins.ok().flatten().or(next);
            headers.insert(number, begins);
        }
        Ok(headers)
    }

    /// Returns the numbers of all segments, in order.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, LogError> {
        let failed = || LogError::io("list", &self.dir);
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns the number of the first event.
    pub(super) fn first_seq(&self) -> Result<u64, LogError> {
        let first = self.numbers()?.first().copied().unwrap_or(1);
        match self.header(first)? {
            Ok(Some(header)) => Ok(header.before.seq + 1),
            Ok(None) => Err(self.damaged(first, 0, Flaw::Header)),
            Err(flaw) => Err(self.damaged(first, 0, flaw)),
        }
    }

    /// Reads the header of a segment.
    pub(super) fn header(&self, number: u32) -> Result<Begins, LogError> {
        let Some(bytes) = self.read_first(number, HEADER_BYTES as u64)? else {
            return Ok(Err(Flaw::Missing));
        };
        match Header::decode(&bytes) {
            Ok(Some(header)) if header.number != number => Ok(Err(Flaw::Order)),
            begins => Ok(begins),
        }
    }

    /// Reads the header of a segment that must have one.
    pub(super) fn sound_header(&self, number: u32) -> Result<Header, LogError> {
        let begins = self.header(number)?;
        let header = begins.and_then(|header| header.ok_or(Flaw::Missing));
        header.map_err(|flaw| self.damaged(number, 0, flaw))
    }

    /// Returns the header of the segment that has an event, or will have it. `last` is the last segment.
    pub(super) fn find(&self, seq: u64, last: u32) -> Result<Header, LogError> {
        let first = self.numbers()?.first().copied().unwrap_or(last);
        let mut number = last;
        loop {
            let header = self.sound_header(number)?;
            if header.before.seq < seq {
                return Ok(header);
            }
            if number == first {
                return Err(self.damaged(header.before.place.segment, 0, Flaw::Missing));
            }
            number = header.before.place.segment;
        }
    }

    /// Returns the number of the next segment up to the last one.
    pub(super) fn following(&self, number: u32, last: u32) -> Result<Option<u32>, LogError> {
        Ok(self.numbers()?.into_iter().find(|next| *next > number && *next <= last))
    }

    /// Reads a part of a segment; less of it at its end.
    pub(super) fn read_part(&self, from: Place, bytes: usize) -> Result<Vec<u8>, LogError> {
        let path = self.path(from.segment);
        let mut file = File::open(&path).map_err(LogError::io("open", &path))?;
        let mut part = Vec::with_capacity(bytes);
        let read = file.seek(SeekFrom::Start(from.offset));
        let read = read.and_then(|_| file.take(bytes as u64).read_to_end(&mut part));
        read.map_err(LogError::io("read", path))?;
        Ok(part)
    }

    /// Reads a segment; one that is missing is empty.
    pub(super) fn read(&self, number: u32) -> Result<Vec<u8>, LogError> {
        Ok(self.read_first(number, self.bytes_max)?.unwrap_or_default())
    }

    fn read_first(&self, number: u32, bytes_max: u64) -> Result<Option<Vec<u8>>, LogError> {
        let path = self.path(number);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(LogError::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).map_err(LogError::io("read", path))?;
        Ok(Some(bytes))
    }

    /// Opens a segment for writing.
    pub(super) fn open(&self, number: u32) -> Result<File, LogError> {
        let path = self.path(number);
        OpenOptions::new().read(true).write(true).open(&path).map_err(LogError::io("open", path))
    }

    /// Makes a segment without a header. It does no harm if it exists already.
    pub(super) fn make(&self, number: u32) -> Result<File, LogError> {
        let path = self.path(number);
        let file = create(&path).map_err(LogError::io("create", &path))?;
        self.reserve(&file);
        Ok(file)
    }

    /// Makes a segment whose header is durable from the beginning.
    pub(super) fn begin(&self, header: &Header) -> Result<File, LogError> {
        let new = self.dir.join(NEW);
        let written = remove(&new).and_then(|()| create(&new)).and_then(|file| {
            self.reserve(&file);
            file.write_all_at(&header.encode(), 0)?;
            file.sync_all()?;
            Ok(file)
        });
        let file = written.map_err(LogError::io("write", &new))?;
        let path = self.path(header.number);
        std::fs::rename(&new, &path).map_err(LogError::io("create", path))?;
        self.sync()?;
        Ok(file)
    }

    /// Gives back the space behind the end of a segment.
    pub(super) fn shorten(&self, number: u32, bytes: u64) -> Result<(), LogError> {
        let file = self.open(number)?;
        let shortened = file.set_len(bytes).and_then(|()| file.sync_data());
        shortened.map_err(LogError::io("shorten", self.path(number)))
    }

    /// Removes a segment.
    pub(super) fn remove(&self, number: u32) -> Result<(), LogError> {
        let path = self.path(number);
        remove(&path).map_err(LogError::io("remove", path))
    }

    /// Makes the names of segments durable.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(LogError::io("sync", &self.dir))
    }

    /// Reserves disk space, so that a sync need not write the file's size. Without it the log works, but slower.
    fn reserve(&self, file: &File) {
        if let Err(error) = fallocate(file.as_fd(), FallocateFlags::empty(), 0, self.bytes_max) {
            tracing::debug!(%error, "no disk space is reserved for a segment of the log");
        }
    }

    pub(super) fn damaged(&self, number: u32, offset: u64, flaw: Flaw) -> LogError {
        let path = self.path(number);
        match flaw {
            Flaw::Version(found) => LogError::Version { path, found, known: VERSION },
            _ => LogError::Damaged { path, offset, flaw },
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the length of a segment without the zeros at its end.
pub(super) fn used(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for block in bytes.rchunks(BLOCK_BYTES) {
        // Without a branch for each byte this is as fast as memory.
        if block.iter().fold(0, |all, byte| all | byte) != 0 {
            return end - block.iter().rev().take_while(|byte| **byte == 0).count();
        }
        end -= block.len();
    }
    end
}

//! A GGUF file, opened: its metadata, and where each tensor lies. Nothing is taken from the file's word
//! that its size does not allow.

use std::collections::BTreeMap;
use std::path::Path;

use etude_tensor::MappedFile;

use super::cursor::Cursor;
use super::error::GgufError;
use super::format::TensorFormat;
use super::metadata::Metadata;

/// What every file begins with.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// Where nothing else is said, tensors begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 32;
/// A tensor has at most this many dimensions.
const MAX_DIMENSIONS: u32 = 4;

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The sizes, slowest first as libtorch has them (the file has them the other way round).
    pub shape: Vec<i64>,
    /// How the numbers are stored.
    pub format: TensorFormat,
    /// From the beginning of the file, in bytes.
    start: u64,
    /// In bytes.
    length: u64,
}

/// A mapped file whose header is sound.
#[derive(Debug)]
pub struct GgufFile {
    file: MappedFile,
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
}

impl GgufFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// The field of the header that is cut, out of bounds, doubled or unknown.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = MappedFile::open(path).map_err(GgufError::io(path))?;
        let mut cursor = Cursor::new(path, file.bytes());
        let (tensor_count, key_count) = read_counts(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, key_count)?;
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.name("tensor name")?.to_owned();
            let info = read_tensor(&mut cursor, &name)?;
            if tensors.contains_key(&name) {
                return Err(GgufError::field(path, &name, "is there twice"));
            }
            tensors.insert(name, info);
        }
        let alignment = alignment(&metadata)?;
        let data = (cursor.at() as u64).next_multiple_of(alignment);
        place(
            path,
            &mut tensors,
            data,
            alignment,
            file.bytes().len() as u64,
        )?;
        Ok(Self {
            file,
            metadata,
            tensors,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The bytes of a tensor of this file.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        // Open has compared both ends with the file's size.
        &self.file.bytes()[tensor.start as usize..(tensor.start + tensor.length) as usize]
    }
}

/// Magic, version, and the numbers of tensors and keys, which cannot be more than there are bytes for.
fn read_counts(cursor: &mut Cursor<'_>) -> Result<(u64, u64), GgufError> {
    let path = cursor.path;
    if cursor.take(4, "magic")? != MAGIC {
        let reason = "is not `GGUF`: this is no GGUF file";
        return Err(GgufError::field(path, "magic", reason));
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        let reason = if (2..=3).contains(&version.swap_bytes()) {
            "is big-endian, which is not supported; convert the file to little-endian".to_owned()
        } else {
            format!("is {version}; 2 and 3 are known")
        };
        return Err(GgufError::field(path, "version", reason));
    }
    let tensors = cursor.u64("tensor_count")?;
    let keys = cursor.u64("metadata_kv_count")?;
    // The shortest tensor: a name of one byte, one dimension; the shortest key: one byte, one byte of value.
    for (field, count, least) in [
        ("tensor_count", tensors, 8 + 1 + 4 + 8 + 4 + 8),
        ("metadata_kv_count", keys, 8 + 1 + 4 + 1),
    ] {
        if count > cursor.left() / least {
            let reason = format!(
                "is {count}, and the file has only {} more bytes: it is cut or damaged",
                cursor.left()
            );
            return Err(GgufError::field(path, field, reason));
        }
    }
    Ok((tensors, keys))
}

/// A tensor's entry; `start` is still counted from where the data begins.
fn read_tensor(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorInfo, GgufError> {
    let path = cursor.path;
    let wrong = |reason: String| GgufError::field(path, name, reason);
    let dimensions = cursor.u32(name)?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(wrong(format!(
            "has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are allowed"
        )));
    }
    let mut shape = Vec::new();
    let mut values: u64 = 1;
    for _ in 0..dimensions {
        let size = cursor.u64(name)?;
        let sound = i64::try_from(size).ok().filter(|&size| size > 0);
        let size = sound.ok_or_else(|| wrong(format!("has a dimension of {size}")))?;
        values = values
            .checked_mul(size as u64)
            .ok_or_else(|| wrong("has more values than can be counted".to_owned()))?;
        shape.push(size);
    }
    let format = TensorFormat::of_number(cursor.u32(name)?).map_err(|found| {
        let known: Vec<&str> = TensorFormat::all().map(TensorFormat::name).collect();
        wrong(format!(
            "is stored as {found}, which is not supported; Etude reads {}",
            known.join(", ")
        ))
    })?;
    let block = format.block_len() as u64;
    if !(shape[0] as u64).is_multiple_of(block) {
        return Err(wrong(format!(
            "has rows of {} values; {} stores blocks of {block}",
            shape[0],
            format.name()
        )));
    }
    let length = (values / block)
        .checked_mul(format.block_bytes() as u64)
        .ok_or_else(|| wrong("has more bytes than can be counted".to_owned()))?;
    let start = cursor.u64(name)?;
    shape.reverse();
    Ok(TensorInfo {
        shape,
        format,
        start,
        length,
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let Some(found) = metadata.int(KEY)? else {
        return Ok(ALIGNMENT);
    };
    let alignment = found as u64;
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let reason = format!("is {found}; it must be a power of two up to {}", 1 << 20);
        return Err(metadata.error(KEY, reason));
    }
    Ok(alignment)
}

/// Counts each tensor's start from the file's, and refuses those that begin between alignments, end past
/// the file, or share bytes with another.
fn place(
    path: &Path,
    tensors: &mut BTreeMap<String, TensorInfo>,
    data: u64,
    alignment: u64,
    size: u64,
) -> Result<(), GgufError> {
    for (name, tensor) in tensors.iter_mut() {
        let wrong = |reason: String| GgufError::field(path, name, reason);
        if tensor.start % alignment != 0 {
            return Err(wrong(format!(
                "lies at offset {}, which is no multiple of the alignment, {alignment}",
                tensor.start
            )));
        }
        let start = data.checked_add(tensor.start);
        let end = start.and_then(|start| start.checked_add(tensor.length));
        match (start, end) {
            (Some(start), Some(end)) if end <= size => tensor.start = start,
            _ => {
                return Err(wrong(format!(
                    "has {} bytes at offset {}, past the end of the file of {size} bytes: it is cut or damaged",
                    tensor.length, tensor.start
                )));
            }
        }
    }
    let mut placed: Vec<(u64, u64, &str)> = tensors
        .iter()
        .map(|(name, tensor)| (tensor.start, tensor.start + tensor.length, name.as_str()))
        .collect();
    placed.sort_unstable();
    for pair in placed.windows(2) {
        let [(_, end, first), (start, _, second)] = [pair[0], pair[1]];
        if start < end {
            let reason = format!("shares bytes with `{first}`");
            return Err(GgufError::field(path, second, reason));
        }
    }
    Ok(())
}

//! The bytes of a file: header, metadata, tensors, in version 3.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::error::GgufError;
use super::file::{ALIGNMENT, MAGIC};
use super::format::TensorFormat;
use super::metadata::{Value, types};

/// A tensor that is going to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    /// Slowest dimension first.
    pub(super) shape: Vec<i64>,
    pub(super) format: TensorFormat,
}

impl Planned {
    fn bytes(&self) -> u64 {
        let values = self.shape.iter().product::<i64>().unsigned_abs();
        values / self.format.block_len() as u64 * self.format.block_bytes() as u64
    }
}

/// Writes a file; `data` is asked for the stored bytes of each tensor in turn. It is synced at the end.
pub(super) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    data: impl FnMut(usize) -> Vec<u8>,
) -> Result<(), GgufError> {
    let attempt = || {
        let file = File::create(path)?;
        let mut out = Counting {
            out: BufWriter::with_capacity(1 << 20, file),
            written: 0,
        };
        write_all(&mut out, metadata, tensors, data)?;
        out.out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()
    };
    attempt().map_err(GgufError::io(path))
}

/// Counts what it passes on.
struct Counting {
    out: BufWriter<File>,
    written: u64,
}

impl Counting {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.put(&(text.len() as u64).to_le_bytes())?;
        self.put(text.as_bytes())
    }

    /// Zeros up to the next multiple of the alignment.
    fn align(&mut self) -> io::Result<()> {
        let gap = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.put(&[0; ALIGNMENT as usize][..gap as usize])
    }
}

fn write_all(
    out: &mut Counting,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    mut data: impl FnMut(usize) -> Vec<u8>,
) -> io::Result<()> {
    out.put(MAGIC)?;
    out.put(&3u32.to_le_bytes())?;
    out.put(&(tensors.len() as u64).to_le_bytes())?;
    out.put(&(metadata.len() as u64).to_le_bytes())?;
    for (key, value) in metadata {
        out.text(key)?;
        write_value(out, value)?;
    }
    let mut offset = 0;
    for tensor in tensors {
        out.text(&tensor.name)?;
        out.put(&(tensor.shape.len() as u32).to_le_bytes())?;
        for size in tensor.shape.iter().rev() {
            out.put(&size.to_le_bytes())?;
        }
        out.put(&tensor.format.number().to_le_bytes())?;
        out.put(&u64::to_le_bytes(offset))?;
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.align()?;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = data(index);
        assert_eq!(
            bytes.len() as u64,
            tensor.bytes(),
            "`{}` is as long as was planned",
            tensor.name
        );
        out.put(&bytes)?;
        out.align()?;
    }
    Ok(())
}

/// Numbers in 32 bits, as llama.cpp asks for them, where they fit.
fn write_value(out: &mut Counting, value: &Value) -> io::Result<()> {
    let mut kind = |number: u32| out.put(&number.to_le_bytes());
    match value {
        Value::Unsigned(number) => match u32::try_from(*number) {
            Ok(narrow) => {
                kind(types::U32)?;
                out.put(&narrow.to_le_bytes())
            }
            Err(_) => {
                kind(types::U64)?;
                out.put(&number.to_le_bytes())
            }
        },
        Value::Signed(number) => {
            kind(types::I64)?;
            out.put(&number.to_le_bytes())
        }
        Value::Float(number) => {
            kind(types::F32)?;
            out.put(&(*number as f32).to_le_bytes())
        }
        Value::Flag(flag) => {
            kind(types::BOOL)?;
            out.put(&[u8::from(*flag)])
        }
        Value::Text(text) => {
            kind(types::TEXT)?;
            out.text(text)
        }
        Value::Texts(texts) => write_array(out, types::TEXT, texts, |out, text| out.text(text)),
        // Token types, the only ones, are of 32 bits.
        Value::Integers(numbers) => write_array(out, types::I32, numbers, |out, &number| {
            out.put(&(number as i32).to_le_bytes())
        }),
        Value::Floats(numbers) => write_array(out, types::F32, numbers, |out, &number| {
            out.put(&(number as f32).to_le_bytes())
        }),
        Value::Flags(flags) => write_array(out, types::BOOL, flags, |out, &flag| {
            out.put(&[u8::from(flag)])
        }),
    }
}

fn write_array<T>(
    out: &mut Counting,
    kind: u32,
    elements: &[T],
    write: impl Fn(&mut Counting, &T) -> io::Result<()>,
) -> io::Result<()> {
    out.put(&types::ARRAY.to_le_bytes())?;
    out.put(&kind.to_le_bytes())?;
    out.put(&(elements.len() as u64).to_le_bytes())?;
    elements.iter().try_for_each(|element| write(out, element))
}

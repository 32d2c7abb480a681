//! Reading and writing safetensors files. Nothing unpickles; a file's header is checked (by the
//! `safetensors` crate: tensors lie end to end, each as long as its shape says; here: they end where the
//! file does) before any tensor is made from it.

mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Kind, Tensor, no_grad};

use crate::map::MappedFile;

pub use write::write;

/// A longer header is refused before it is parsed, as the format's own library does.
const MAX_HEADER: usize = 100_000_000;

/// How much of a tensor is copied at a time.
const PIECE_BYTES: usize = 8 << 20;

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Not a safetensors file, or a cut one.
    #[error("{path}: not a whole safetensors file ({reason}); fetch or write it again")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        reason: String,
    },
    /// A tensor in a dtype that Etude does not use.
    #[error(
        "{path}: tensor `{tensor}` has dtype {dtype}, which is not supported; convert the file to F32, F16 or BF16"
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: String,
    },
    /// A tensor that is asked for and not there.
    #[error("{path}: tensor `{tensor}` is missing")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
}

/// A mapped safetensors file, its header read once.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: MappedFile,
    metadata: Metadata,
    /// Where the tensors begin.
    start: usize,
}

impl SafetensorsFile {
    /// Maps the file and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let file = MappedFile::open(path).map_err(|source| SafetensorsError::Io {
            path: path.to_owned(),
            source,
        })?;
        let (metadata, start) =
            read_header(file.bytes()).map_err(|reason| SafetensorsError::Format {
                path: path.to_owned(),
                reason,
            })?;
        Ok(Self {
            file,
            metadata,
            start,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Name and shape of each tensor, by name.
    ///
    /// # Errors
    /// When a tensor without numbers has a size that is none.
    pub fn shapes(&self) -> Result<Vec<(String, Vec<i64>)>, SafetensorsError> {
        let mut shapes = Vec::new();
        for (name, info) in self.metadata.tensors() {
            let shape = self.shape(&name, info)?;
            shapes.push((name, shape));
        }
        shapes.sort();
        Ok(shapes)
    }

    /// Number format and bytes of each tensor whose format has a counterpart here.
    pub fn kinds(&self) -> Vec<(Kind, usize)> {
        let tensors = self.metadata.tensors().into_values();
        let bytes = |info: &TensorInfo| info.data_offsets.1 - info.data_offsets.0;
        tensors
            .filter_map(|info| Some((kind_of(info.dtype)?, bytes(info))))
            .collect()
    }

    /// The dtype of a tensor, where there is one of that name in a dtype that libtorch has.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        kind_of(self.metadata.info(name)?.dtype)
    }

    /// The file's own key-value metadata.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.metadata.metadata().clone().unwrap_or_default()
    }

    /// A copy of one tensor, on the CPU, in the file's dtype.
    ///
    /// # Errors
    /// When it is missing or of a dtype without a counterpart here.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let (kind, shape, bytes) = self.find(name)?;
        let data = &self.file.bytes()[bytes];
        Tensor::f_from_data_size(data, &shape, kind).map_err(|error| self.wrong(name, &error))
    }

    /// Copies one tensor into `target`, of the same shape (turned over when `transposed`), whatever its dtype and
    /// device. A few megabytes at a time, and what was read leaves the memory: loading takes hardly more than the
    /// weights themselves.
    ///
    /// # Errors
    /// As [`SafetensorsFile::tensor`], and when the shapes differ.
    pub fn copy_into(
        &self,
        name: &str,
        target: &Tensor,
        transposed: bool,
    ) -> Result<(), SafetensorsError> {
        let (kind, shape, bytes) = self.find(name)?;
        let target = if transposed {
            target.tr()
        } else {
            target.shallow_clone()
        };
        if target.size() != shape {
            let reason = format!(
                "has the shape {shape:?}, and {:?} was expected",
                target.size()
            );
            return Err(self.wrong(name, &reason));
        }
        let rows = shape.first().copied().unwrap_or(1);
        let row_bytes = bytes.len() / rows.max(1) as usize;
        let step = (PIECE_BYTES / row_bytes.max(1)).max(1) as i64;
        let mut first = 0;
        while first < rows && row_bytes > 0 {
            let here = step.min(rows - first);
            let begin = bytes.start + first as usize * row_bytes;
            let range = begin..begin + here as usize * row_bytes;
            let mut size = shape.clone();
            let mut place = target.shallow_clone();
            if let Some(length) = size.first_mut() {
                *length = here;
                place = target.narrow(0, first, here);
            }
            let piece = Tensor::f_from_data_size(&self.file.bytes()[range.clone()], &size, kind)
                .map_err(|error| self.wrong(name, &error))?;
            no_grad(|| place.f_copy_(&piece)).map_err(|error| self.wrong(name, &error))?;
            self.file.forget(range);
            first += here;
        }
        Ok(())
    }

    /// Dtype, shape and place of a tensor.
    fn find(&self, name: &str) -> Result<(Kind, Vec<i64>, Range<usize>), SafetensorsError> {
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| SafetensorsError::Missing {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
            })?;
        let kind = kind_of(info.dtype).ok_or_else(|| SafetensorsError::Dtype {
            path: self.path().to_owned(),
            tensor: name.to_owned(),
            dtype: format!("{:?}", info.dtype),
        })?;
        let (first, end) = info.data_offsets;
        Ok((
            kind,
            self.shape(name, info)?,
            self.start + first..self.start + end,
        ))
    }

    /// A shape may have any size beside a zero, so not each is a number of ours.
    fn shape(&self, name: &str, info: &TensorInfo) -> Result<Vec<i64>, SafetensorsError> {
        let sizes = info.shape.iter().map(|&size| i64::try_from(size));
        sizes
            .collect::<Result<_, _>>()
            .map_err(|error| self.wrong(name, &error))
    }

    fn wrong(&self, tensor: &str, reason: &dyn std::fmt::Display) -> SafetensorsError {
        SafetensorsError::Format {
            path: self.path().to_owned(),
            reason: format!("tensor `{tensor}`: {reason}"),
        }
    }
}

/// The header, and where the tensors begin. The library's own reader adds offsets up without looking for
/// an overflow, so the last comparison is made here.
fn read_header(bytes: &[u8]) -> Result<(Metadata, usize), String> {
    let (length, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or("shorter than its 8 bytes of header length")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let header = rest
        .get(..length)
        .ok_or_else(|| format!("cut within its header of {length} bytes"))?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("header: {error}"))?;
    let data = rest.len() - length;
    if metadata.data_len() != data {
        let promised = metadata.data_len();
        return Err(format!(
            "the header promises {promised} bytes of tensors, the file has {data}"
        ));
    }
    Ok((metadata, 8 + length))
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_tensor_of_many_pieces_is_copied_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let cpu = |kind| (kind, Device::Cpu);
        let large = Tensor::randn([3001, 1000], cpu(Kind::Float));
        assert!(large.numel() * 4 > PIECE_BYTES);
        let tensors = [
            ("large".to_owned(), large.shallow_clone()),
            ("half".to_owned(), large.to_kind(Kind::BFloat16)),
            ("scalar".to_owned(), Tensor::from(7.0f32)),
            ("empty".to_owned(), Tensor::zeros([0, 2], cpu(Kind::Float))),
        ];
        write(&path, &tensors, &[]).expect("written");
        let file = SafetensorsFile::open(&path).expect("opens");
        for (name, tensor) in &tensors {
            // Twice: what was read has left the memory in between.
            for _ in 0..2 {
                let target = Tensor::full(tensor.size(), f64::NAN, cpu(Kind::Float));
                file.copy_into(name, &target, false).expect("it fits");
                assert!(target.equal(&tensor.to_kind(Kind::Float)), "{name}");
            }
        }
        let turned = Tensor::full([1000, 3001], f64::NAN, cpu(Kind::Float));
        file.copy_into("large", &turned, true).expect("it fits");
        assert!(turned.equal(&large.tr()));
        let error = file.copy_into("large", &turned, false).expect_err("turned");
        assert!(
            error
                .to_string()
                .contains("`large`: has the shape [3001, 1000]"),
            "{error}"
        );
    }

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let float = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
        let tensors = vec![
            ("b.half".to_owned(), float.to_kind(Kind::BFloat16)),
            ("a.transposed".to_owned(), float.tr()),
            (
                "c.empty".to_owned(),
                Tensor::zeros([0, 2], (Kind::Int64, Device::Cpu)),
            ),
        ];
        write(&path, &tensors, &[("step", "5".to_owned())]).expect("written");
        let file = SafetensorsFile::open(&path).expect("opens");
        assert_eq!(file.metadata()["step"], "5");
        for (name, tensor) in &tensors {
            let read = file.tensor(name).expect("is there");
            assert_eq!(read.kind(), tensor.kind());
            assert!(read.equal(tensor), "{name}");
        }
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        write(
            &path,
            &[(
                "w".to_owned(),
                Tensor::ones([64], (Kind::Float, Device::Cpu)),
            )],
            &[],
        )
        .expect("written");
        let whole = std::fs::read(&path).expect("read");
        for cut in [0, 4, 8, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let error = SafetensorsFile::open(&path)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("x.safetensors"), "{error}");
        }
        std::fs::write(&path, &whole).expect("restored");
        let file = SafetensorsFile::open(&path).expect("opens");
        assert!(matches!(
            file.tensor("v"),
            Err(SafetensorsError::Missing { .. })
        ));
    }
}

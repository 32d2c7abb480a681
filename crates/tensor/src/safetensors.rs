//! Reading and writing safetensors files. Nothing unpickles; a file's header is checked by the
//! `safetensors` crate before any tensor is made from it.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use tch::{Kind, Tensor};

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

/// A mapped safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
}

impl SafetensorsFile {
    /// Maps the file and checks its header.
    ///
    /// # Errors
    /// When the file cannot be read or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let io = |source| SafetensorsError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read only; a file that another process cuts while we read it would end
        // this process, as for every program that maps its weights.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let opened = Self {
            path: path.to_owned(),
            map,
        };
        opened.view()?;
        Ok(opened)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name and shape of each tensor, by name.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn shapes(&self) -> Result<Vec<(String, Vec<i64>)>, SafetensorsError> {
        let view = self.view()?;
        let mut shapes: Vec<_> = view
            .iter()
            .map(|(name, tensor)| {
                (
                    name.to_owned(),
                    tensor.shape().iter().map(|&n| n as i64).collect(),
                )
            })
            .collect();
        shapes.sort();
        Ok(shapes)
    }

    /// The file's own key-value metadata.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn metadata(&self) -> Result<HashMap<String, String>, SafetensorsError> {
        let (_, metadata) =
            SafeTensors::read_metadata(&self.map).map_err(|error| self.format(&error))?;
        Ok(metadata.metadata().clone().unwrap_or_default())
    }

    /// A copy of one tensor, on the CPU, in the file's dtype.
    ///
    /// # Errors
    /// When it is missing or of a dtype without a counterpart here.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let view = self.view()?;
        let tensor = view.tensor(name).map_err(|_| SafetensorsError::Missing {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })?;
        self.copy(name, &tensor)
    }

    fn copy(&self, name: &str, tensor: &TensorView<'_>) -> Result<Tensor, SafetensorsError> {
        let kind = kind_of(tensor.dtype()).ok_or_else(|| SafetensorsError::Dtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: format!("{:?}", tensor.dtype()),
        })?;
        let shape: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
        Tensor::f_from_data_size(tensor.data(), &shape, kind).map_err(|error| self.format(&error))
    }

    fn view(&self) -> Result<SafeTensors<'_>, SafetensorsError> {
        SafeTensors::deserialize(&self.map).map_err(|error| self.format(&error))
    }

    fn format(&self, reason: &dyn std::fmt::Display) -> SafetensorsError {
        SafetensorsError::Format {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Writes tensors to one file; `metadata` gains `format = "pt"`, which Transformers asks for. The file
/// is neither synced nor renamed here: that is the checkpoint's business.
///
/// # Errors
/// When the file cannot be written.
pub fn write(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, String)],
) -> Result<(), SafetensorsError> {
    let mut info: HashMap<String, String> = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    info.extend(
        metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone())),
    );
    let views: Vec<(&str, TensorBytes)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), TensorBytes::new(tensor)))
        .collect();
    safetensors::serialize_to_file(views, Some(info), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => SafetensorsError::Io {
            path: path.to_owned(),
            source,
        },
        other => SafetensorsError::Format {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    })
}

/// One tensor as the `safetensors` crate wants to see it; bytes are copied out when they are written.
struct TensorBytes {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl TensorBytes {
    fn new(tensor: &Tensor) -> Self {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Int64 => Dtype::I64,
            Kind::Int => Dtype::I32,
            Kind::Uint8 => Dtype::U8,
            Kind::Bool => Dtype::BOOL,
            other => panic!("no safetensors dtype for {other:?}"),
        };
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        Self {
            tensor: tensor.detach(),
            dtype,
            shape,
            bytes,
        }
    }
}

impl View for TensorBytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.to_device(tch::Device::Cpu).contiguous(); // sync
        let mut bytes = vec![0u8; self.bytes];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Cow::Owned(bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes
    }
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
        assert_eq!(file.metadata().expect("metadata")["step"], "5");
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

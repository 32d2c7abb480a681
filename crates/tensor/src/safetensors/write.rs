//! Writing a safetensors file: the header, then the tensors end to end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Kind, Tensor};

use super::SafetensorsError;

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
    let mut views: Vec<(&str, TensorBytes)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), TensorBytes::new(tensor)))
        .collect();
    // The format's own order: the widest dtype first, so that every tensor is aligned, then by name.
    views.sort_by(|(a, left), (b, right)| right.dtype.cmp(&left.dtype).then(a.cmp(b)));
    let header = header(&views, info).map_err(|reason| SafetensorsError::Format {
        path: path.to_owned(),
        reason,
    })?;
    let views = views.iter().map(|(_, view)| view);
    write_parts(path, &header, views).map_err(|source| SafetensorsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The header of tensors that lie end to end in this order, filled up with spaces to a multiple of 8 bytes.
fn header(
    views: &[(&str, TensorBytes)],
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut end = 0;
    let mut tensors = Vec::with_capacity(views.len());
    for (name, view) in views {
        let start = end;
        end += view.bytes;
        let info = TensorInfo {
            dtype: view.dtype,
            shape: view.shape.clone(),
            data_offsets: (start, end),
        };
        tensors.push(((*name).to_owned(), info));
    }
    let metadata = Metadata::new(Some(metadata), tensors).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Writes the file beside its place and renames it: a file of that name that somebody has mapped stays whole for
/// them. The library's own writer does the same by way of a temporary file that only its owner may read.
fn write_parts<'a>(
    path: &Path,
    header: &[u8],
    views: impl Iterator<Item = &'a TensorBytes>,
) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let unfinished = path.with_file_name(format!(".{}.unfinished", name.to_string_lossy()));
    let written = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header)?;
        for view in views {
            file.write_all(&view.data())?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// One tensor as the format describes it; bytes are copied out when they are written.
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

    fn data(&self) -> Vec<u8> {
        let tensor = self.tensor.to_device(tch::Device::Cpu).contiguous(); // sync
        let mut bytes = vec![0u8; self.bytes];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_file_is_as_the_formats_own_library_writes_it_and_as_readable_as_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let float = Tensor::randn([3, 5], (Kind::Float, Device::Cpu));
        let tensors = vec![
            ("b.half".to_owned(), float.to_kind(Kind::BFloat16)),
            ("c.float".to_owned(), float.shallow_clone()),
            ("a.float".to_owned(), float.tr()),
            ("count".to_owned(), Tensor::from(7i64)),
        ];
        write(&path, &tensors, &[]).expect("written");
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, tensor)| TensorBytes::new(tensor).data())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let of = TensorBytes::new(tensor);
            let view = safetensors::tensor::TensorView::new(of.dtype, of.shape, bytes);
            (name.clone(), view.expect("as long as its shape says"))
        });
        let info = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views, Some(info)).expect("written");
        assert!(std::fs::read(&path).expect("read") == theirs);
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "x").expect("written");
        let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions();
        assert_eq!(mode(&path), mode(&plain));
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 2);
    }
}

//! In which number formats weights are kept.

use std::path::Path;

use etude_tensor::{Kind, Tensor, no_grad};

use super::error::FolderError;
use super::folder::file_of;
use super::names::hf_tensors;
use super::peft;
use super::shards::weight_files;
use crate::decoder::Decoder;

/// The number formats of a model's matrices, and of all else: norms, biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// Of what has two dimensions.
    pub matrices: Kind,
    /// Of the rest, which is small and often kept in float32.
    pub others: Kind,
}

impl Formats {
    /// One format for all.
    pub fn one(kind: Kind) -> Self {
        Self {
            matrices: kind,
            others: kind,
        }
    }

    /// The narrowest that hold tensors of these shapes and formats exactly; none where there are no numbers.
    pub fn holding<'a>(tensors: impl IntoIterator<Item = (&'a [i64], Kind)>) -> Option<Self> {
        let (mut matrices, mut others) = (None, None);
        for (shape, kind) in tensors {
            let of_both = match shape.len() {
                2 => &mut matrices,
                _ => &mut others,
            };
            *of_both = Some(of_both.map_or(kind, |before| wider(before, kind)));
        }
        let matrices = matrices.or(others)?;
        let others = others.unwrap_or(matrices);
        Some(match wider(matrices, others) == others {
            true => Self { matrices, others },
            false => Self::one(wider(matrices, others)),
        })
    }
}

/// The narrowest format that holds what two hold.
fn wider(one: Kind, other: Kind) -> Kind {
    match (one, other) {
        _ if one == other => one,
        (Kind::Double, _) | (_, Kind::Double) => Kind::Double,
        _ => Kind::Float,
    }
}

/// The narrowest formats that hold a model folder's weights, the base's for an adapter. What config.json says of them is
/// not always so.
///
/// # Errors
/// A folder without weights that can be read.
pub fn stored_formats(folder: &Path) -> Result<Formats, FolderError> {
    if peft::is_adapter(folder) {
        return stored_formats(&peft::base(folder)?);
    }
    let numbers = [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double];
    let mut all: Vec<(Vec<i64>, Kind)> = Vec::new();
    for file in weight_files(folder)? {
        all.extend(file.shapes()?.into_iter().filter_map(|(name, shape)| {
            let kind = file.kind(&name).filter(|kind| numbers.contains(kind))?;
            Some((shape, kind))
        }));
    }
    let tensors = all.iter().map(|(shape, kind)| (&shape[..], *kind));
    Ok(Formats::holding(tensors).unwrap_or(Formats::one(Kind::Float)))
}

/// What is left to do with a model that was read in `formats` from `path`.
///
/// # Errors
/// Numbers that they do not hold.
pub(crate) fn settle(decoder: &Decoder, formats: Formats, path: &Path) -> Result<(), FolderError> {
    demand_held(decoder, path)?;
    if formats.matrices != formats.others {
        narrow_what_fits(decoder);
    }
    Ok(())
}

/// Puts vectors into their matrices' format where that changes no number: float32 norms of a GGUF file often come of
/// one in bfloat16.
fn narrow_what_fits(decoder: &Decoder) {
    let entries = decoder.params().entries();
    let Some(matrix) = entries.iter().find(|param| param.tensor.dim() == 2) else {
        return;
    };
    let kind = matrix.tensor.kind();
    let vectors = || entries.iter().filter(|param| param.tensor.dim() != 2);
    let fits = |tensor: &Tensor| tensor.to_kind(kind).to_kind(tensor.kind()).equal(tensor);
    if vectors().all(|param| fits(&param.tensor)) {
        for param in vectors() {
            let mut tensor = param.tensor.set_requires_grad(false);
            no_grad(|| tensor.set_data(&tensor.to_kind(kind)));
        }
    }
}

/// Refuses numbers that were beyond a narrow format, or no numbers before.
///
/// # Errors
/// The tensor's name at `path`.
fn demand_held(decoder: &Decoder, path: &Path) -> Result<(), FolderError> {
    let format = |kind: Kind| match kind {
        Kind::Half => Some("float16"),
        Kind::BFloat16 => Some("bfloat16"),
        _ => None,
    };
    match broken(decoder, |kind| format(kind).is_some()) {
        None => Ok(()),
        Some((tensor, kind)) => Err(FolderError::Infinite {
            path: path.to_owned(),
            tensor,
            format: format(kind).expect("only these were looked at"),
        }),
    }
}

/// Refuses a model, read from `folder`, whose weights are not all finite: nobody wants it written out.
///
/// # Errors
/// The file and its tensor.
pub fn demand_finite(decoder: &Decoder, folder: &Path) -> Result<(), FolderError> {
    match broken(decoder, |_| true) {
        None => Ok(()),
        Some((tensor, _)) => Err(FolderError::NotFinite {
            path: file_of(folder, decoder.config(), &tensor).unwrap_or(folder.to_owned()),
            tensor,
        }),
    }
}

/// The first tensor, by a folder's name for it, that holds what is not finite, among those in formats that are `asked` for.
pub(crate) fn broken(decoder: &Decoder, asked: impl Fn(Kind) -> bool) -> Option<(String, Kind)> {
    let is_broken = |tensor: &Tensor| no_grad(|| tensor.isfinite().all().int64_value(&[])) == 0; // sync
    let params = decoder.params().entries().iter();
    let mut params = params.filter(|param| asked(param.tensor.kind()));
    let param = params.find(|param| is_broken(&param.tensor))?;
    let tensors = hf_tensors(decoder.config(), param, &param.tensor);
    let broken = tensors.into_iter().find(|part| is_broken(&part.tensor))?;
    Some((broken.name, param.tensor.kind()))
}

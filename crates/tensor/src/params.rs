//! Named parameters in a stable order: the order in which the model declares them.
//!
//! A layer is handed a [`Scope`] and asks it for its tensors; names are joined with dots. Nothing here
//! is a hash map, so optimizers, checkpoints and gradient norms see the same order in every run.

use tch::{Device, Kind, Tensor};

use crate::{Init, native};

/// One parameter.
#[derive(Debug)]
pub struct Param {
    /// Dotted name.
    pub name: String,
    /// Its values, on the device.
    pub tensor: Tensor,
    /// Sizes along the first dimension of the matrices that this one holds stacked (queries, keys and
    /// values in one product, say); one entry for an ordinary parameter. Muon and the model folder treat
    /// the parts one by one.
    pub parts: Vec<i64>,
}

/// The parameters of a model, by name, in the order of declaration.
#[derive(Debug)]
pub struct Params {
    device: Device,
    kind: Kind,
    /// The dtype of the matrices, frozen where it is another one.
    matrices: Kind,
    entries: Vec<Param>,
    values: Values,
}

/// What newly declared parameters hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Numbers drawn as their [`Init`] says.
    Drawn,
    /// Whatever the memory held.
    Blank,
    /// A shape without memory of its own.
    Outline,
}

impl Params {
    /// No parameters yet; those to come live on `device` in `kind`.
    pub fn new(device: Device, kind: Kind) -> Self {
        Self {
            device,
            kind,
            matrices: kind,
            entries: Vec::new(),
            values: Values::Drawn,
        }
    }

    /// As [`Params::new`], for parameters that are about to be read from a file: nothing is drawn, they
    /// hold whatever the memory held.
    pub fn blank(device: Device, kind: Kind) -> Self {
        Self {
            values: Values::Blank,
            ..Self::new(device, kind)
        }
    }

    /// The same, with the matrices to come in a dtype of their own. Where that is not `kind`, they are frozen.
    #[must_use]
    pub fn with_matrices(self, matrices: Kind) -> Self {
        Self { matrices, ..self }
    }

    /// For names and shapes alone, before anything is allocated: each parameter is a single zero,
    /// stretched.
    pub fn outline() -> Self {
        Self {
            values: Values::Outline,
            ..Self::new(Device::Cpu, Kind::Float)
        }
    }

    /// The scope with an empty prefix.
    pub fn root(&mut self) -> Scope<'_> {
        Scope {
            params: self,
            prefix: String::new(),
        }
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dtype of the parameters; matrices may be kept in another.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Name and tensor, in the order of declaration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries
            .iter()
            .map(|param| (param.name.as_str(), &param.tensor))
    }

    /// All that is known of each parameter, in the same order.
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    /// The tensors alone, in the same order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.entries.iter().map(|param| &param.tensor)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries
            .iter()
            .find(|param| param.name == name)
            .map(|param| &param.tensor)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of numbers in all tensors together.
    pub fn numel(&self) -> u64 {
        self.tensors().map(|tensor| tensor.numel() as u64).sum()
    }

    /// Forgets all gradients, so that the next backward pass stores its own instead of adding.
    pub fn drop_grads(&self) {
        native::drop_grads(self.tensors());
    }
}

/// A place in the tree of parameter names.
#[derive(Debug)]
pub struct Scope<'a> {
    params: &'a mut Params,
    prefix: String,
}

impl Scope<'_> {
    /// The scope one name deeper.
    pub fn sub(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = self.join(&name.to_string());
        Scope {
            params: self.params,
            prefix,
        }
    }

    /// Declares a trainable parameter.
    ///
    /// # Panics
    /// When the name was declared before: two layers would share it unawares.
    pub fn param(&mut self, name: &str, shape: &[i64], init: Init) -> Tensor {
        self.stacked(name, shape, &[shape.first().copied().unwrap_or(1)], init)
    }

    /// Declares a trainable parameter that holds several matrices stacked along the first dimension,
    /// of `parts` rows each.
    ///
    /// # Panics
    /// When the name was declared before, or the parts do not add up to the first dimension.
    pub fn stacked(&mut self, name: &str, shape: &[i64], parts: &[i64], init: Init) -> Tensor {
        assert!(
            shape.is_empty() || parts.iter().sum::<i64>() == shape[0],
            "the parts of `{name}` add up to its first dimension"
        );
        let name = self.join(name);
        assert!(
            self.params.get(&name).is_none(),
            "parameter `{name}` is declared twice"
        );
        let kind = match shape.len() {
            2 => self.params.matrices,
            _ => self.params.kind,
        };
        let options = (kind, self.params.device);
        let tensor = match self.params.values {
            Values::Drawn => init.tensor(shape, options.0, options.1),
            Values::Blank => Tensor::empty(shape, options),
            Values::Outline => Tensor::zeros([1], options).expand(shape, false),
        }
        .set_requires_grad(kind == self.params.kind);
        self.params.entries.push(Param {
            name,
            tensor: tensor.shallow_clone(),
            parts: parts.to_vec(),
        });
        tensor
    }

    fn join(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_order_of_declaration() {
        let mut params = Params::new(Device::Cpu, Kind::Float);
        let mut root = params.root();
        let _ = root.sub("layers").sub(1).param("w", &[2, 3], Init::Ones);
        let _ = root.sub("layers").sub(0).param("w", &[4], Init::Zeros);
        let _ = root.param("a", &[1], Init::Zeros);
        let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["layers.1.w", "layers.0.w", "a"]);
        assert_eq!(params.numel(), 11);
    }

    #[test]
    #[should_panic(expected = "declared twice")]
    fn a_name_is_declared_once() {
        let mut params = Params::new(Device::Cpu, Kind::Float);
        let _ = params.root().param("w", &[1], Init::Zeros);
        let _ = params.root().param("w", &[1], Init::Zeros);
    }

    #[test]
    fn dropped_grads_are_undefined() {
        let mut params = Params::new(Device::Cpu, Kind::Float);
        let w = params.root().param("w", &[3], Init::Ones);
        (&w * 2.0).sum(Kind::Float).backward();
        assert!(w.grad().defined());
        params.drop_grads();
        assert!(!w.grad().defined());
    }
}

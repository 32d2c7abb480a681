//! `--adapter`: PEFT adapters merged into a model when it is loaded.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_model::certificate::Certificate;
use etude_model::hf::{self, Formats, LoadedModel, peft};
use etude_tensor::Device;
use etude_tokenizer::Tokenizer;

use crate::{model, output};

/// Adapters, and how often each counts.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AdapterArgs {
    /// A PEFT adapter folder (or the run that made one) to merge into MODEL, :0.5 for half of it; may be given several times
    #[arg(long = "adapter", value_name = "DIR[:WEIGHT]", value_parser = parse)]
    adapters: Vec<(PathBuf, f64)>,
}

impl AdapterArgs {
    /// Loads a model with the adapters merged. Of each that was trained on another model, that is said, or on one in
    /// another folder where nothing tells whether it is the same.
    ///
    /// # Errors
    /// What is wrong with a folder, or that an adapter is for another base.
    pub(crate) fn load(
        &self,
        folder: &Path,
        formats: Formats,
        device: Device,
    ) -> Result<LoadedModel> {
        self.tell_other_base(folder);
        Ok(hf::load_merged(folder, &self.adapters, formats, device)?)
    }

    /// The tokenizer that goes with a model and these adapters: that of the last one, if it brings one that fits, with
    /// the model's chat template where it has none.
    ///
    /// # Errors
    /// None that can be read, or one that is not the model's.
    pub(crate) fn tokenizer(&self, folder: &Path, vocab_size: i64) -> Result<Tokenizer> {
        let models = || {
            let tokenizer = model::tokenizer(folder)?;
            model::check_fit(folder, &tokenizer, vocab_size)?;
            Ok(tokenizer)
        };
        let own = self.folder();
        let Some(own) = own.filter(|own| own.join("tokenizer.json").is_file()) else {
            return models();
        };
        let lacks = match model::tokenizer(own) {
            Err(error) => format!("{error:#}"),
            Ok(tokenizer) if tokenizer.vocab_size() as i64 > vocab_size => format!(
                "{} has {} tokens, the model knows {vocab_size}",
                own.display(),
                tokenizer.vocab_size()
            ),
            Ok(tokenizer) if tokenizer.chat_template().is_some() => return Ok(tokenizer),
            Ok(tokenizer) => {
                let models = model::tokenizer(folder).ok();
                let template = models.as_ref().and_then(Tokenizer::chat_template);
                return Ok(match template {
                    Some(template) => tokenizer.with_chat_template(template.source())?,
                    None => tokenizer,
                });
            }
        };
        output::note(&format!(
            "note: {lacks}; the model's own tokenizer is taken"
        ));
        models()
    }

    /// Says which of the adapters, and of a folder that is one, were trained on another model than the one that they
    /// are merged into.
    pub(crate) fn tell_other_base(&self, folder: &Path) {
        let own = peft::is_adapter(folder).then_some(folder);
        let base = own.map_or_else(|| Ok(folder.to_owned()), peft::base);
        let Ok(base) = base.as_deref() else {
            return; // which whoever loads it tells
        };
        let place = |folder: &Path| folder.canonicalize().unwrap_or(folder.to_owned());
        let given = self.adapters.iter().map(|(folder, _)| folder.as_path());
        let mut is = None;
        for adapter in own.into_iter().chain(given) {
            // A certificate that cannot be read is the doctor's to tell of, a base that cannot be the loader's.
            let certificate = Certificate::load(adapter).ok().flatten();
            if let Some(was) = certificate.and_then(|certificate| certificate.base) {
                let is = is.get_or_insert_with(|| hf::fingerprint(base).ok()); // as fast as it is read, and once
                if is.as_ref().is_some_and(|is| *is != was) {
                    output::note(&format!(
                        "note: the files in {1} are not those of the model that {0} was trained on: if it is another one, or another version, what was learnt may not hold",
                        adapter.display(),
                        base.display()
                    ));
                }
                continue;
            }
            // A name, or a folder that is gone, tells nothing.
            if let Ok(own) = peft::base(adapter)
                && place(&own) != place(base)
            {
                output::note(&format!(
                    "note: {} was trained on the model in {}, and is merged into the one in {}",
                    adapter.display(),
                    own.display(),
                    base.display()
                ));
            }
        }
    }

    /// The last adapter's folder: its run tells how prompts are written.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.adapters.last().map(|(folder, _)| folder.as_path())
    }
}

fn parse(text: &str) -> Result<(PathBuf, f64), String> {
    let (path, weight) = match text.rsplit_once(':') {
        Some((path, weight)) if !Path::new(text).exists() => {
            let number = weight
                .parse()
                .ok()
                .filter(|weight: &f64| weight.is_finite());
            let number =
                number.ok_or_else(|| format!("`{weight}` is not a number; give DIR:0.5, say"))?;
            (path, number)
        }
        _ => (text, 1.0),
    };
    let path = PathBuf::from(path);
    let in_run = path.join("adapter");
    let found = if !path.join("adapter_config.json").is_file() && in_run.is_dir() {
        in_run
    } else {
        path
    };
    Ok((found, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_stands_after_a_colon() {
        assert_eq!(parse("a/b"), Ok(("a/b".into(), 1.0)));
        assert_eq!(parse("a/b:0.5"), Ok(("a/b".into(), 0.5)));
        assert_eq!(parse("a:b:-1"), Ok(("a:b".into(), -1.0)));
        assert!(parse("a:half").is_err() && parse("a:nan").is_err());
    }
}

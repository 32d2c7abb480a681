//! The model that is looked at: in float32 on the CPU, with its tokenizer.

use std::path::Path;

use anyhow::{Context, Result};
use etude_tensor::{Device, Kind, memory};
use etude_tokenizer::{Message, Role, Tokenizer};
use serde_json::Value;

use super::check::Check;
use super::transcript::{self, Transcript};
use crate::decoder::Decoder;
use crate::gguf;
use crate::hf::{self, LoadedModel, TokenIds, peft};
use crate::text::Prompt;

/// A model to check.
#[derive(Debug)]
pub struct Subject {
    /// The decoder, an adapter merged.
    pub decoder: Decoder,
    /// Its special tokens.
    pub ids: TokenIds,
    /// Its tokenizer; a folder may lack one.
    pub tokenizer: Option<Tokenizer>,
    /// `config.json`, which the model has or would have.
    pub(super) config: Value,
}

impl Subject {
    /// Reads a model folder, or an adapter folder with its base.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let place = match peft::is_adapter(folder) && !folder.join("tokenizer.json").is_file() {
            true => peft::base(folder)?,
            false => folder.to_owned(),
        };
        let has_tokenizer = place.join("tokenizer.json").is_file();
        let tokenizer = has_tokenizer.then(|| Tokenizer::load(&place)).transpose();
        let loaded = hf::load(folder, Kind::Float, Device::Cpu)?;
        Ok(Self::new(loaded, tokenizer?))
    }

    /// Why a folder's model cannot be read: in float32 it takes more memory than is free.
    ///
    /// # Errors
    /// What is wrong with its settings.
    pub fn lack_of_memory(folder: &Path) -> Result<Option<String>> {
        let (config, _) = hf::load_config(folder)?;
        let needed = Decoder::outline(&config)?.numel().saturating_mul(4);
        let free = memory::available().unwrap_or(u64::MAX);
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        Ok((needed > free).then(|| {
            format!(
                "nothing was computed: the model takes {:.1} GB in float32, {:.1} GB are free",
                gigabytes(needed),
                gigabytes(free)
            )
        }))
    }

    /// Reads a GGUF file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load_gguf(path: &Path) -> Result<Self> {
        // The model first: what is wrong with its settings is not the tokenizer's fault.
        let loaded = gguf::load(path, Kind::Float, Device::Cpu)?;
        let tokenizer = gguf::load_tokenizer(path).context("its tokenizer cannot be rebuilt")?;
        Ok(Self::new(loaded, Some(tokenizer)))
    }

    /// A model that is loaded already.
    pub fn new(loaded: LoadedModel, tokenizer: Option<Tokenizer>) -> Self {
        let LoadedModel { decoder, ids } = loaded;
        let config = hf::config_json(decoder.config(), &ids, "float32");
        Self {
            decoder,
            ids,
            // What is written down today is to hold tomorrow.
            tokenizer: tokenizer.map(|tokenizer| tokenizer.without_clock()),
            config,
        }
    }

    /// What it says to `prompts`, or to some that suit any model where there are none.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn transcripts(&self, prompts: &[Prompt]) -> Result<Vec<Transcript>> {
        transcript::take(self, prompts)
    }

    /// The tokens at which it ends an answer.
    pub(super) fn end(&self) -> Vec<u32> {
        let mut end = self.ids.eos.clone();
        end.extend(self.tokenizer.iter().flat_map(Tokenizer::stop_ids));
        end.sort_unstable();
        end.dedup();
        end
    }

    /// How many of the decoder's tokens its tokenizer knows: the others are never chosen.
    pub(super) fn tokens(&self) -> i64 {
        let known = self.tokenizer.as_ref().map(Tokenizer::vocab_size);
        let all = self.decoder.config().vocab_size;
        known.map_or(all, |known| all.min(known as i64))
    }

    /// What can be said of a model by itself: that its weights are there and finite (their shapes were
    /// compared with the settings when it was loaded), that the tokenizer fits, that the template renders.
    pub(super) fn soundness(&self) -> Vec<Check> {
        let params = self.decoder.params();
        let broken = hf::broken(&self.decoder, |_| true);
        let broken = broken.map(|(name, _)| format!("`{name}` holds values that are not finite"));
        let found = format!(
            "{} parameters, {} numbers, of the shapes that the settings say, all finite",
            params.entries().len(),
            params.numel()
        );
        let mut checks = vec![Check::unless(broken, "weights", found)];
        let Some(tokenizer) = &self.tokenizer else {
            checks.push(Check::noted("tokenizer", "none in the folder"));
            return checks;
        };
        let (tokens, rows) = (tokenizer.vocab_size(), self.decoder.config().vocab_size);
        let fit = format!("{tokens} tokens, the model knows {rows}");
        let misfit = (tokens as i64 > rows).then(|| fit.clone());
        checks.push(Check::unless(misfit, "tokenizer", fit));
        if let Some(template) = tokenizer.chat_template() {
            let turn = [Message::new(Role::User, "Hello!")];
            let refused = template.render(&turn, true).err();
            let refused = refused.map(|error| format!("does not render a user's turn: {error}"));
            checks.push(Check::unless(refused, "template", "renders a user's turn"));
        }
        checks
    }
}

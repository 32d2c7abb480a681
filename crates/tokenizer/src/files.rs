//! Loading and saving model folders. A file is written beside its place and then moved there, so
//! that what was saved before stays whole when writing fails.

use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::config::Config;
use crate::{Tokenizer, TokenizerError};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// See [`Tokenizer::load`].
pub(crate) fn load(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let (file, folder) = locate(path)?;
    let engine = parse(&read_text(&file)?).map_err(|error| TokenizerError::Parse {
        path: file.clone(),
        message: error.to_string(),
    })?;
    demand_dense(&engine, &file)?;
    let config = match &folder {
        Some(folder) => Config::read(folder)?,
        None => Config::default(),
    };
    // A template in a file of its own is the newer form and wins.
    let template = match folder.map(|folder| folder.join(TEMPLATE)) {
        Some(path) if path.is_file() => Some(read_text(&path)?),
        _ => config.template()?,
    };
    let tokenizer = Tokenizer::new(engine, config)?;
    match template {
        Some(source) => tokenizer.with_chat_template(&source),
        None => Ok(tokenizer),
    }
}

/// Ids that a vocabulary may leave out: more than any tokenizer's does, and few enough that a table of all ids is small.
const HOLES: usize = 1 << 20;

/// Refuses ids that lie far beyond the number of tokens, before anything as long as the largest is made.
fn demand_dense(engine: &tokenizers::Tokenizer, file: &Path) -> Result<(), TokenizerError> {
    let vocabulary = engine.get_vocab(true);
    let most = vocabulary.len() + HOLES;
    match vocabulary.iter().max_by_key(|(_, id)| **id) {
        Some((token, &id)) if id as usize >= most => Err(TokenizerError::Config {
            path: file.to_owned(),
            field: "model.vocab".to_owned(),
            message: format!(
                "gives {token:?} the id {id}, and there are {} tokens; ids go up to {} then: \
                 number the tokens anew, or fetch the file again",
                vocabulary.len(),
                most - 1
            ),
        }),
        _ => Ok(()),
    }
}

/// The tokenizer's file, and the folder whose other files belong to it.
fn locate(path: &Path) -> Result<(PathBuf, Option<PathBuf>), TokenizerError> {
    if path.is_dir() {
        let file = path.join(TOKENIZER);
        if !file.is_file() {
            return Err(TokenizerError::NoTokenizer {
                folder: path.to_owned(),
            });
        }
        return Ok((file, Some(path.to_owned())));
    }
    // Under any other name it may lie among the files of another model.
    let is_canonical = path.file_name().is_some_and(|name| name == TOKENIZER);
    let folder = is_canonical.then(|| path.parent().unwrap_or(Path::new("")).to_owned());
    Ok((path.to_owned(), folder))
}

/// See [`Tokenizer::save`].
pub(crate) fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<(), TokenizerError> {
    std::fs::create_dir_all(folder).map_err(|source| TokenizerError::Write {
        path: folder.to_owned(),
        source,
    })?;
    let template = tokenizer.chat_template().map(|template| template.source());
    let config = tokenizer.config().to_json(template);
    let config = serde_json::to_string_pretty(&config).map_err(TokenizerError::engine)?;
    let engine = tokenizer
        .engine()
        .to_string(true)
        .map_err(TokenizerError::engine)?;
    write(&folder.join(TOKENIZER), &engine)?;
    write(&folder.join(CONFIG), &(config + "\n"))?;
    // One from another tokenizer would win over ours.
    let separate = folder.join(TEMPLATE);
    match template {
        Some(source) if separate.exists() => write(&separate, source)?,
        None if separate.exists() => {
            std::fs::remove_file(&separate).map_err(|source| TokenizerError::Write {
                path: separate,
                source,
            })?
        }
        _ => {}
    }
    Ok(())
}

/// Nearly every model is a BPE, and to say so in advance makes parsing two to three times as fast:
/// the engine otherwise copies vocabulary and merges twice to find out.
pub(crate) fn parse(json: &str) -> Result<tokenizers::Tokenizer, serde_json::Error> {
    type OfBpe = TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >;
    match serde_json::from_str::<OfBpe>(json) {
        Ok(engine) => Ok(engine.into()),
        Err(_) => serde_json::from_str(json),
    }
}

fn read_text(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|source| TokenizerError::Read {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), TokenizerError> {
    etude_files::replace(path, |file| file.write_all(text.as_bytes())).map_err(|source| {
        TokenizerError::Write {
            path: path.to_owned(),
            source,
        }
    })
}

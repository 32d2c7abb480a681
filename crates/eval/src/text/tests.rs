//! The windows against a search that does as the command line's contract says, token by token.

use etude_model::{Family, Input};
use etude_tensor::{Kind, Tensor, no_grad};

use super::*;
use crate::task::testing::{decoder, tokenizer};

const TEXT: &str = "a rose is a rose — é, 日本; roses 🌹 are red, violets are blue. A rose is red!";

/// Nats, tokens and bytes by the contract's words: for every window in turn every token that no
/// earlier one scored, its first excepted, from the window's tokens before it.
fn brute_force(
    decoder: &Decoder,
    ids: &[u32],
    bytes: &[u64],
    c: usize,
    s: usize,
) -> (f64, u64, u64) {
    let mut scored = vec![false; ids.len()];
    let (mut nats, mut total) = (0.0, 0);
    let mut start = 0;
    while start < ids.len() {
        for place in start + 1..(start + c).min(ids.len()) {
            if scored[place] {
                continue;
            }
            scored[place] = true;
            let before: Vec<i64> = ids[start..place].iter().map(|&id| i64::from(id)).collect();
            let read = Tensor::from_slice(&before).unsqueeze(0);
            let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&read), None)));
            let last = logits.select(1, before.len() as i64 - 1).select(0, 0);
            nats -= last
                .log_softmax(-1, Kind::Double)
                .double_value(&[i64::from(ids[place])]);
            total += bytes[place];
        }
        start += s;
    }
    (
        nats,
        scored.iter().filter(|&&scored| scored).count() as u64,
        total,
    )
}

#[test]
fn equals_the_contract_token_by_token() -> Result<()> {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(TEXT)?;
    let bytes = token_bytes(&tokenizer, &ids, TEXT)?;
    for family in [Family::Llama, Family::Gpt2] {
        let decoder = decoder(family, 24);
        for (c, s) in [(24, 24), (24, 7), (10, 9), (10, 1), (2, 2), (2, 1), (9, 5)] {
            let windows = TextWindows {
                context: Some(c),
                stride: Some(s),
            };
            let found = text_loss(&decoder, &tokenizer, TEXT, &windows, &mut |_| Ok(()))?;
            let (nats, tokens, bytes) = brute_force(&decoder, &ids, &bytes, c, s);
            assert_eq!((found.tokens, found.bytes), (tokens, bytes), "{c} {s}");
            assert!(
                (found.nll - nats / tokens as f64).abs() < 1e-10,
                "{c} {s}: {found:?}"
            );
            let bits = nats / std::f64::consts::LN_2 / bytes as f64;
            assert!(
                (found.bits_per_byte - bits).abs() < 1e-10,
                "{c} {s}: {found:?}"
            );
            assert!((found.perplexity - found.nll.exp()).abs() < 1e-9);
            if s < c {
                assert_eq!(tokens as usize, ids.len() - 1);
            }
        }
    }
    Ok(())
}

#[test]
fn sizes_have_their_defaults_and_limits() -> Result<()> {
    let tokenizer = tokenizer();
    let small = decoder(Family::Llama, 24);
    let with = |context, stride| {
        text_loss(
            &small,
            &tokenizer,
            TEXT,
            &TextWindows { context, stride },
            &mut |_| Ok(()),
        )
    };
    assert_eq!(with(None, None)?, with(Some(24), Some(24))?);
    assert_eq!(with(Some(10), None)?, with(Some(10), Some(10))?);
    assert_eq!(
        sizes(&decoder(Family::Llama, 2000), &TextWindows::default())?,
        (1024, 1024)
    );
    let says = |context, stride, words: &str| {
        let error = with(context, stride).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    says(Some(25), None, "context = 25");
    says(Some(1), None, "context = 1");
    says(Some(10), Some(11), "stride = 11");
    says(None, Some(0), "stride = 0");
    Ok(())
}

#[test]
fn cuts_score_what_they_should() {
    let spans = |length, context, stride| -> Vec<(usize, usize, usize)> {
        let cuts = cut(length, context, stride);
        cuts.iter()
            .map(|cut| (cut.start, cut.first_scored, cut.end))
            .collect()
    };
    assert_eq!(spans(10, 4, 4), [(0, 1, 4), (4, 5, 8), (8, 9, 10)]);
    assert_eq!(spans(9, 4, 4), [(0, 1, 4), (4, 5, 8)]);
    assert_eq!(
        spans(10, 4, 2),
        [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    );
    assert_eq!(spans(3, 8, 8), [(0, 1, 3)]);
    assert_eq!(spans(1, 8, 8), []);
}

#[test]
fn many_windows_go_in_batches_and_progress_is_told() -> Result<()> {
    let tokenizer = tokenizer();
    let decoder = decoder(Family::Llama, 64);
    let text = TEXT.repeat(300);
    let mut heard = Vec::new();
    let windows = TextWindows {
        context: Some(64),
        stride: None,
    };
    let whole = text_loss(&decoder, &tokenizer, &text, &windows, &mut |progress| {
        heard.push(progress);
        Ok(())
    })?;
    let ids = tokenizer.encode(&text)?;
    let total = ids.len().div_ceil(64) as u64;
    assert_eq!(whole.tokens, ids.len() as u64 - total);
    assert!(
        heard.len() > 2
            && heard
                .iter()
                .all(|progress| progress.stage == Stage::Scoring)
    );
    assert!(heard.is_sorted_by_key(|progress| progress.done));
    let last = heard.last().expect("told");
    assert_eq!(last.done, last.total);
    let mut calls = 0;
    let ended = text_loss(&decoder, &tokenizer, &text, &windows, &mut |_| {
        calls += 1;
        anyhow::ensure!(calls < 2, "enough");
        Ok(())
    });
    assert_eq!(ended.expect_err("the listener's").to_string(), "enough");
    assert_eq!(calls, 2, "and nothing after it");
    // In one piece per window, by the same code.
    let mut nats = 0.0;
    for ids in ids.chunks(64).filter(|ids| ids.len() > 1) {
        let cut = Cut {
            start: 0,
            first_scored: 1,
            end: ids.len(),
        };
        nats += windows_loss(&decoder, [batch(ids, &[cut])]).0;
    }
    assert!((whole.nll - nats / whole.tokens as f64).abs() < 1e-10);
    Ok(())
}

#[test]
fn what_cannot_be_scored_is_said() {
    let tokenizer = tokenizer();
    let decoder = decoder(Family::Llama, 24);
    for text in ["", "a"] {
        let found = text_loss(
            &decoder,
            &tokenizer,
            text,
            &TextWindows::default(),
            &mut |_| Ok(()),
        );
        let error = found.expect_err("nothing to score").to_string();
        assert!(error.contains("nothing to score"), "{error}");
    }
    no_grad(|| {
        for (_, tensor) in decoder.params().iter() {
            let _ = tensor.shallow_clone().fill_(f64::NAN);
        }
    });
    let found = text_loss(
        &decoder,
        &tokenizer,
        TEXT,
        &TextWindows::default(),
        &mut |_| Ok(()),
    );
    assert!(found.expect_err("broken").to_string().contains("NaN"));
}

#[test]
fn the_score_is_the_contracts_json() -> Result<()> {
    let json = serde_json::to_value(score(3.0, 2, 4)?)?;
    for field in ["nll", "tokens", "bits_per_byte", "perplexity"] {
        assert!(json[field].is_number(), "{json}");
    }
    assert_eq!(
        (json["nll"].as_f64(), json["tokens"].as_u64()),
        (Some(1.5), Some(2))
    );
    Ok(())
}

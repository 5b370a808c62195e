//! An encoder: texts a second, beside sentence-transformers.

use std::path::{Path, PathBuf};

use regard_kernels::peak::{Machine, Unit};
use regard_models::encoder::EncoderDescription;
use regard_models::tokenizer::Special;
use regard_models::{Encoder, Folder, LoadOptions, Precision};
use regard_simd::Isa;

use crate::bench::Results;
use crate::bench::limit::Work;
use crate::bench::model::{Clock, Subject};
use crate::bench::report::{Accuracy, Amount, Figures};
use crate::bench::sentences::SentenceTransformers;
use crate::error::Error;

/// Texts are runs of this one's words: the first chapter of Moby-Dick.
const BOOK: &str = include_str!("../../../../bench/loomings.txt");

/// Words of a text, and texts of a call: four batches of the peer's, two, or one of long texts.
const TEXTS: [(usize, usize); 3] = [(20, 128), (60, 64), (200, 32)];

/// What our products are in, what the peer computes in beside them, and how far a vector may be from the peer's in f64: one
/// minus their cosine.
const WAYS: [(&str, Precision, &str, f64); 3] = [
    ("f32", Precision::F32, "f32", 1e-5),
    ("bf16", Precision::Bf16, "bf16", 5e-4),
    ("int8", Precision::Int8, "bf16", 1e-3),
];

/// A bf16 has 8 bits, and the peer rounds all that it computes to them: its vectors are right where they are as near as that.
const PEER_BOUND: f64 = 1.0 / 256.0;

/// An encoder's folder, and what it is to be measured with.
pub(crate) struct EncoderSubject {
    path: PathBuf,
    folder: Folder,
    description: EncoderDescription,
    isa: Isa,
    threads: usize,
}

impl EncoderSubject {
    /// # Errors
    /// The folder is no encoder that runs here.
    pub(crate) fn open(path: &Path, isa: Isa, threads: usize) -> Result<Self, Error> {
        let folder = Folder::open(path)?;
        let description = EncoderDescription::from_folder(&folder)?;
        Ok(EncoderSubject { path: path.to_owned(), folder, description, isa, threads })
    }

    /// The largest of one minus the cosines of vectors, which stand one after the other.
    fn accuracy(&self, vectors: &[f64], exact: &[f64], bound: f64) -> Accuracy {
        let width = self.description.width;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let off = |(a, b): (&[f64], &[f64])| 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let error = match vectors.len() == exact.len() {
            true => vectors.chunks(width).zip(exact.chunks(width)).map(off).max_by(f64::total_cmp).unwrap_or(0.0),
            false => f64::NAN,
        };
        // Of vectors that are nearly the same, rounding may make it negative; a NaN stays one.
        Accuracy { of: "vectors", error: if error < 0.0 { 0.0 } else { error }, bound }
    }

    /// What texts need at least: the products of all tokens with the weights, in the encoder's precision, and those of a
    /// text's tokens with each other, in bf16 unless all is in f32.
    fn work(&self, encoder: &Encoder, texts: &[String]) -> Result<[Work; 2], Error> {
        let &EncoderDescription { width, hidden, layers, context, .. } = &self.description;
        let (mut tokens, mut pairs) = (0.0, 0.0);
        for text in texts {
            let len = encoder.tokenizer().encode_sequence(text, Special::AsText)?.len().min(context) as f64;
            tokens += len;
            pairs += len * len;
        }
        let bf16 = if self.isa.has_bf16_dots() { Unit::Bf16 } else { Unit::F32 };
        let (linear, attention) = match encoder.precision() {
            Precision::F32 => (Unit::F32, Unit::F32),
            Precision::Bf16 => (bf16, bf16),
            Precision::Int8 => (Unit::Int8, bf16),
        };
        let of_token = (2 * layers * (4 * width * width + 2 * width * hidden)) as f64;
        let of_pair = (2 * layers * 2 * width) as f64;
        Ok([(tokens * of_token, linear), (pairs * of_pair, attention)].map(|(flops, unit)| Work {
            flops,
            unit,
            bytes: 0.0,
        }))
    }
}

impl Subject for EncoderSubject {
    fn ids(&self) -> Vec<String> {
        TEXTS.iter().flat_map(|&(words, _)| WAYS.map(|(dtype, ..)| id(words, dtype))).collect()
    }

    fn measure(
        &self,
        machine: &Machine,
        chosen: &[String],
        python: Option<&Path>,
        results: &mut Results,
    ) -> Result<(), Error> {
        let options = LoadOptions { threads: Some(self.threads), isa: Some(self.isa) };
        let mut peer = python.map(|python| SentenceTransformers::start(python, self.threads)).transpose()?;
        for (words, count) in TEXTS {
            let is_chosen = |dtype: &str| chosen.contains(&id(words, dtype));
            if !WAYS.iter().any(|&(dtype, ..)| is_chosen(dtype)) {
                continue;
            }
            let texts = texts(words, count);
            let mut exact = None;
            if let Some(peer) = &mut peer {
                peer.prepare(&self.path, "f64", &texts)?;
                exact = Some(peer.vectors()?);
            }
            for (dtype, precision, of_peer, bound) in WAYS.into_iter().filter(|&(dtype, ..)| is_chosen(dtype)) {
                let encoder = Encoder::from_folder(&self.folder, precision, &options)?;
                results.measure(&id(words, dtype), || {
                    let accuracy = |vectors: &[f64], bound| -> Vec<Accuracy> {
                        exact.iter().map(|exact| self.accuracy(vectors, exact, bound)).collect()
                    };
                    let ours = encoder.encode(&texts)?.concat();
                    let ours: Vec<f64> = ours.into_iter().map(f64::from).collect();
                    let mut clock = Clock { machine, isa: self.isa, peer: None };
                    let mut peer_accuracy = Vec::new();
                    if let Some(peer) = &mut peer {
                        peer.prepare(&self.path, of_peer, &texts)?;
                        clock.peer = Some(peer.name.clone());
                        let bound = if of_peer == "f32" { bound } else { PEER_BOUND };
                        peer_accuracy = accuracy(&peer.vectors()?, bound);
                    }
                    let work = self.work(&encoder, &texts)?;
                    let amount = Amount { count, of: "texts" };
                    let mut figures: Figures = clock.time(
                        &work,
                        Some(amount),
                        accuracy(&ours, bound),
                        || Ok(encoder.encode(&texts).map(drop)?),
                        |calls| peer.as_mut().map_or(Ok(Vec::new()), |peer| peer.step(calls)),
                    )?;
                    if let Some(peer) = &mut figures.peer {
                        peer.accuracy = peer_accuracy;
                    }
                    Ok(figures)
                })?;
            }
        }
        Ok(())
    }
}

fn id(words: usize, dtype: &str) -> String {
    format!("words-{words}-{dtype}")
}

/// Runs of so many words, which begin at even distances.
fn texts(words: usize, count: usize) -> Vec<String> {
    let book: Vec<&str> = BOOK.split_whitespace().collect();
    (0..count).map(|i| book[i * (book.len() - words) / count..][..words].join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_real_and_differ() {
        for (words, count) in TEXTS {
            let mut texts = texts(words, count);
            assert!(texts[0].starts_with("CHAPTER 1. Loomings. Call me Ishmael."));
            assert!(texts.iter().all(|text| text.split(' ').count() == words));
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), count);
        }
    }
}

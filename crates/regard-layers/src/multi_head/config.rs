//! What multi-head attention is made of.

use regard_masks::Mask;

use crate::{Bias, Error};

/// What multi-head attention is made of.
#[derive(Clone, Debug)]
pub struct MultiHeadConfig {
    /// Numbers of a row that goes in, of the memory too.
    pub inputs: usize,
    /// Numbers of a row that comes out.
    pub outputs: usize,
    /// Query heads.
    pub heads: usize,
    /// How many of them read the same keys and values.
    pub share_kv_across_n_heads: usize,
    /// Numbers of a query and of a key.
    pub dim_k: usize,
    /// Numbers of a value.
    pub dim_v: usize,
    /// Which pairs live.
    pub mask: Mask,
    /// What scores are multiplied by; `1/√dim_k` unless given.
    pub scale: Option<f64>,
    /// Biases of all projections.
    pub bias: Bias,
    /// The probability that a weight falls, in training.
    pub dropout: f32,
}

impl MultiHeadConfig {
    /// Heads of `width / heads` numbers that share nothing, every pair alive.
    pub fn new(width: usize, heads: usize) -> MultiHeadConfig {
        let dim = width.checked_div(heads).unwrap_or(0);
        MultiHeadConfig {
            inputs: width,
            outputs: width,
            heads,
            share_kv_across_n_heads: 1,
            dim_k: dim,
            dim_v: dim,
            mask: Mask::full(),
            scale: None,
            bias: Bias::None,
            dropout: 0.0,
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for (setting, has) in [
            ("inputs", self.inputs),
            ("outputs", self.outputs),
            ("heads", self.heads),
            ("share_kv_across_n_heads", self.share_kv_across_n_heads),
            ("dim_k", self.dim_k),
            ("dim_v", self.dim_v),
        ] {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        if !self.heads.is_multiple_of(self.share_kv_across_n_heads) {
            let expected = format!("a divisor of the {} heads", self.heads);
            return Err(Error::setting("share_kv_across_n_heads", self.share_kv_across_n_heads, expected));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("dropout", self.dropout, "at least 0 and below 1"));
        }
        Ok(())
    }
}

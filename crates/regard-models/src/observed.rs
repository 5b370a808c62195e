//! What can be seen of a block while tokens go through it.

use regard_memory::Tensor;

/// What the attention of a block is of, for tokens that go through it together: as attention takes it, so after norms and rotation,
/// in f32 before a cache rounds it.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Which block.
    pub block: usize,
    /// The position of the first of the tokens: so many were seen before.
    pub first: usize,
    /// `[1, heads, tokens, dim_k]`.
    pub queries: Tensor<'a, f32>,
    /// `[1, kv_heads, tokens, dim_k]`.
    pub keys: Tensor<'a, f32>,
    /// `[1, kv_heads, tokens, dim_v]`.
    pub values: Tensor<'a, f32>,
}

/// Who is shown it.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(&Observed<'_>);

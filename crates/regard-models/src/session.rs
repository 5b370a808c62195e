//! A conversation with a decoder: what it has seen, and the logits of what may follow.

use regard_attention::{Cache, CacheDtype, Options, Plan, Shape};
use regard_kernels::Rotary;
use regard_memory::{AlignedBuffer, Arena, Rows, RowsMut};

use crate::decoder::{Decoder, Sequence};
use crate::description::{self, Attention, Mixer};
use crate::model::Model;
use crate::observed::{Observed, Observer};
use crate::{Error, Result};

/// Tokens that go through the blocks together: enough that a weight's panel, once in a core's cache, serves many rows,
/// and few enough that the activations of a small model stay in the caches too.
const CHUNK: usize = 256;

/// Tokens whose logits are made together where all are wanted: a row is a whole vocabulary.
const LOGIT_ROWS: usize = 16;

/// One sequence: keys and values of every block, and all scratch.
///
/// ```no_run
/// use regard_models::{CacheDtype, LoadOptions, Model};
///
/// let model = Model::load("model.gguf".as_ref(), &LoadOptions::default())?;
/// let mut session = model.session(2048, CacheDtype::Bf16)?;
/// let logits = session.feed(&[1, 2, 3])?;
/// let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
/// println!("{likeliest:?} follows");
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct Session<'m> {
    model: &'m Model,
    context: usize,
    /// What it has seen.
    tokens: Vec<u32>,
    caches: Vec<Cache>,
    plans: Vec<BlockPlan>,
    /// Activations of a block.
    arena: Arena,
    /// Attention's own scratch.
    scratch: Arena,
    /// `[CHUNK][width]`: what the blocks hand on.
    stream: AlignedBuffer<f32>,
    /// `[rows][vocabulary]`.
    logits: AlignedBuffer<f32>,
}

/// What all blocks share whose attention is alike.
struct BlockPlan {
    attention: Attention,
    plan: Plan,
    rotary: Rotary,
    /// `[CHUNK][rotary dims]`: the turns of the tokens that go through the blocks.
    turns: AlignedBuffer<f32>,
}

impl BlockPlan {
    /// That of block `index`.
    fn of<'p>(plans: &'p [BlockPlan], decoder: &Decoder, index: usize) -> &'p BlockPlan {
        let Mixer::Attention(attention) = &decoder.description.blocks[index].mixer;
        let known = plans.iter().find(|known| known.attention == *attention);
        known.expect("every block's plan is made with the session")
    }

    /// Makes plan and turns those of `rows` tokens from position `first` on.
    fn move_to(&mut self, first: usize, rows: usize) -> Result<()> {
        self.plan.resize(rows, first + rows)?;
        for (row, turn) in self.turns.chunks_exact_mut(self.rotary.dims()).take(rows).enumerate() {
            self.rotary.turn(first + row, turn);
        }
        Ok(())
    }
}

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m Model, context: usize, dtype: CacheDtype) -> Result<Session<'m>> {
        model.check_room(1, context, dtype)?;
        let description = model.description();
        let (mut caches, mut plans) = (Vec::new(), Vec::<BlockPlan>::new());
        let mut scratch = Arena::new();
        for block in &description.blocks {
            let Mixer::Attention(attention) = &block.mixer;
            let &Attention { heads, kv_heads, dim_k, dim_v, .. } = attention;
            caches.push(Cache::new(dtype, kv_heads, dim_k, dim_v, context)?);
            if plans.iter().all(|known| known.attention != *attention) {
                let shape = Shape { batch: 1, heads, kv_heads, queries: 1, keys: 1, dim_k, dim_v };
                let isa = Some(model.decoder().kernels.isa());
                let options = Options { isa, scale: attention.scale, ..Options::default() };
                let mut plan = Plan::new(shape, &attention.mask(), &options)?;
                // The last token's layout and scratch are the largest: taken now, no token allocates.
                plan.reserve(1, context)?;
                plan.resize(1, context)?;
                let need = plan.need_cached(dtype, model.threads());
                scratch.frame(need)?;
                let description::Rotary { dims, theta, ref scaling, .. } = attention.rotary;
                let rotary = Rotary::new(dims, theta, scaling, context);
                let turns = AlignedBuffer::zeroed(CHUNK.min(context) * dims)?;
                plans.push(BlockPlan { attention: attention.clone(), plan, rotary, turns });
            }
        }
        Ok(Session {
            model,
            context,
            tokens: Vec::with_capacity(context),
            caches,
            plans,
            arena: Arena::new(),
            scratch,
            stream: AlignedBuffer::zeroed(CHUNK.min(context) * description.width)?,
            logits: AlignedBuffer::zeroed(description.vocabulary)?,
        })
    }

    /// Says how many tokens the next text will have at the most, where that is fewer than the context: LongRoPE and dynamic
    /// scaling turn positions by it, as they do in a session of so many tokens. What was seen with other turns is forgotten.
    pub fn expect(&mut self, tokens: usize) {
        let mut same = true;
        for known in &mut self.plans {
            let description::Rotary { dims, theta, ref scaling, .. } = known.attention.rotary;
            let rotary = Rotary::new(dims, theta, scaling, tokens.min(self.context));
            same &= rotary == known.rotary;
            known.rotary = rotary;
        }
        if !same {
            self.truncate(0);
        }
    }

    /// How many tokens the session has seen.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has seen none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens that it has seen.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Logits of a token.
    pub(crate) fn vocabulary(&self) -> usize {
        self.model.description().vocabulary
    }

    /// Tokens that it can see.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of keys and values when the context is full.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(Cache::bytes).sum()
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.caches.iter_mut().for_each(|cache| cache.truncate(len));
    }

    /// Makes these tokens what the session has seen, and gives the logits of what may follow, `[vocabulary]`. What it has seen
    /// already and they begin with is kept: a prompt that another one begins with costs only its end.
    ///
    /// # Errors
    /// As [`Session::feed`]; then the session has seen what both begin with.
    pub fn read(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        let held = self.rewind(tokens);
        self.feed(&tokens[held..])
    }

    /// Forgets what these tokens do not begin with, and the last of them, whose logits are wanted: how many are left.
    pub(crate) fn rewind(&mut self, tokens: &[u32]) -> usize {
        let common = tokens.iter().zip(&self.tokens).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(tokens.len().saturating_sub(1)));
        self.len()
    }

    /// Takes in tokens and gives the logits of what may follow the last one, `[vocabulary]`. After the first token
    /// single tokens allocate nothing; several at once may, where the keys have grown by a split.
    ///
    /// # Errors
    /// There is no token, an id is not in the vocabulary, or the tokens do not fit the context; then nothing is taken in.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.feed_chunks(tokens, None)
    }

    /// The same, showing on the way what attention is of: the queries, keys and values of each block, some hundred tokens of all
    /// blocks before the next. The logits are those of [`Session::feed`], to the bit.
    ///
    /// ```no_run
    /// use regard_models::{CacheDtype, LoadOptions, Model};
    ///
    /// let model = Model::load("model.gguf".as_ref(), &LoadOptions::default())?;
    /// let mut session = model.session(2048, CacheDtype::F32)?;
    /// let mut longest = vec![0.0_f32; model.description().blocks.len()];
    /// session.feed_observed(&[1, 2, 3], &mut |seen| {
    ///     let [_, heads, rows, _] = seen.queries.shape();
    ///     for (head, row) in (0..heads).flat_map(|head| (0..rows).map(move |row| (head, row))) {
    ///         let query = seen.queries.rows(0, head).row(row);
    ///         longest[seen.block] = longest[seen.block].max(query.iter().map(|x| x * x).sum());
    ///     }
    /// })?;
    /// # Ok::<(), regard_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_observed(&mut self, tokens: &[u32], observer: &mut dyn FnMut(&Observed<'_>)) -> Result<&mut [f32]> {
        self.feed_chunks(tokens, Some(observer))
    }

    fn feed_chunks(&mut self, tokens: &[u32], mut observer: Option<Observer<'_>>) -> Result<&mut [f32]> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        for chunk in tokens.chunks(CHUNK) {
            self.run_blocks(chunk, observer.as_mut().map(|observer| &mut **observer as Observer<'_>))?;
        }
        self.make_logits((tokens.len() - 1) % CHUNK, 1)?;
        Ok(&mut self.logits[..self.model.description().vocabulary])
    }

    /// Takes in a few tokens, and has the logits after each of them.
    pub(crate) fn feed_rows(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(tokens)?;
        self.run_blocks(tokens, None)?;
        self.make_logits(0, tokens.len())
    }

    /// The logits of a row that were made last.
    pub(crate) fn logits_of(&mut self, row: usize) -> &mut [f32] {
        let vocabulary = self.vocabulary();
        &mut self.logits[row * vocabulary..][..vocabulary]
    }

    /// Takes one token into each session, all together: the weights are read once. Each session then has the logits that it
    /// would have alone, to the bit.
    pub(crate) fn feed_together(sessions: &mut [&mut Session<'m>], tokens: &[u32]) -> Result<()> {
        let Some(model) = sessions.first().map(|session| session.model) else { return Ok(()) };
        if sessions.iter().any(|session| !std::ptr::eq(session.model, model)) {
            return Err(Error::OtherModel);
        }
        sessions.iter().zip(tokens).try_for_each(|(session, token)| session.check(&[*token]))?;
        // The first one's scratch serves all.
        let mut arena = std::mem::take(&mut sessions[0].arena);
        let mut logits = std::mem::take(&mut sessions[0].logits);
        let done = Self::run_together(model.decoder(), sessions, tokens, &mut arena, &mut logits);
        let rows = logits.chunks_exact(model.description().vocabulary);
        for ((session, &token), logits) in sessions.iter_mut().zip(tokens).zip(rows) {
            match done {
                Ok(()) => session.tokens.push(token),
                Err(_) => session.truncate(session.len()),
            }
            if !session.logits.is_empty() {
                session.logits_of(0).copy_from_slice(logits);
            }
        }
        (sessions[0].arena, sessions[0].logits) = (arena, logits);
        done
    }

    /// The blocks and the logits of [`Session::feed_together`].
    fn run_together(
        decoder: &Decoder,
        sessions: &mut [&mut Session<'m>],
        tokens: &[u32],
        arena: &mut Arena,
        logits: &mut AlignedBuffer<f32>,
    ) -> Result<()> {
        let (rows, width, vocabulary) = (sessions.len(), decoder.description.width, decoder.description.vocabulary);
        if logits.len() < rows * vocabulary {
            logits.resize(rows * vocabulary)?;
        }
        let mut stream = vec![0.0; rows * width];
        let mut stream = RowsMut::contiguous(&mut stream, rows, width)?;
        decoder.embed(tokens, stream.reborrow())?;
        for session in &mut *sessions {
            let len = session.len();
            session.plans.iter_mut().try_for_each(|known| known.move_to(len, 1))?;
        }
        let mut turns = Vec::new();
        for index in 0..decoder.blocks.len() {
            turns.clear();
            let mut sequences = Vec::with_capacity(rows);
            for session in &mut *sessions {
                let Session { caches, plans, scratch, .. } = &mut **session;
                let known = BlockPlan::of(plans, decoder, index);
                turns.extend(&known.turns[..known.rotary.dims()]);
                sequences.push(Sequence { rows: 1, cache: &mut caches[index], plan: &known.plan, scratch });
            }
            let turns = Rows::contiguous(&turns, rows, turns.len() / rows)?;
            let mut frame = arena.frame(decoder.block_need(index, rows))?;
            decoder.mix(index, stream.reborrow(), turns, &mut sequences, &mut frame.scope(), None)?;
            decoder.feed_forward(index, stream.reborrow(), &mut frame.scope())?;
        }
        let mut frame = arena.frame(decoder.logits_need(rows))?;
        let logits = RowsMut::contiguous(&mut logits[..rows * vocabulary], rows, vocabulary)?;
        decoder.logits(stream.as_rows(), logits, &mut frame)
    }

    /// Takes in tokens and hands out the logits after each of them, in order: `each(i, logits)`.
    ///
    /// # Errors
    /// As [`Session::feed`]; no tokens are no error.
    pub fn feed_all(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.check(tokens)?;
        let vocabulary = self.model.description().vocabulary;
        for (c, chunk) in tokens.chunks(CHUNK).enumerate() {
            self.run_blocks(chunk, None)?;
            for first in (0..chunk.len()).step_by(LOGIT_ROWS) {
                let rows = LOGIT_ROWS.min(chunk.len() - first);
                self.make_logits(first, rows)?;
                for (row, logits) in self.logits.chunks_exact(vocabulary).take(rows).enumerate() {
                    each(c * CHUNK + first + row, logits);
                }
            }
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.model.description().vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            let text = self.model.tokenizer().token_text(token).map(str::to_owned);
            return Err(Error::UnknownToken { token, text, vocabulary });
        }
        if tokens.len() > self.context - self.len() {
            return Err(Error::ContextFull { len: self.len(), context: self.context, more: tokens.len() });
        }
        Ok(())
    }

    /// Takes up to [`CHUNK`] tokens through all blocks; their rows then stand in `stream`.
    fn run_blocks(&mut self, tokens: &[u32], observer: Option<Observer<'_>>) -> Result<()> {
        let done = self.try_blocks(tokens, observer);
        match done {
            Ok(()) => self.tokens.extend(tokens),
            // The caches of some blocks may have taken them in.
            Err(_) => self.truncate(self.len()),
        }
        done
    }

    fn try_blocks(&mut self, tokens: &[u32], mut observer: Option<Observer<'_>>) -> Result<()> {
        let decoder: &Decoder = self.model.decoder();
        let (rows, width) = (tokens.len(), decoder.description.width);
        let mut stream = RowsMut::contiguous(&mut self.stream[..rows * width], rows, width)?;
        decoder.embed(tokens, stream.reborrow())?;
        let len = self.tokens.len();
        self.plans.iter_mut().try_for_each(|known| known.move_to(len, rows))?;
        for (index, cache) in self.caches.iter_mut().enumerate() {
            let known = BlockPlan::of(&self.plans, decoder, index);
            let turns = Rows::contiguous(&known.turns[..rows * known.rotary.dims()], rows, known.rotary.dims())?;
            let mut sequence = [Sequence { rows, cache, plan: &known.plan, scratch: &mut self.scratch }];
            let mut frame = self.arena.frame(decoder.block_need(index, rows))?;
            let observer = observer.as_mut().map(|observer| &mut **observer as Observer<'_>);
            decoder.mix(index, stream.reborrow(), turns, &mut sequence, &mut frame.scope(), observer)?;
            decoder.feed_forward(index, stream.reborrow(), &mut frame.scope())?;
        }
        Ok(())
    }

    /// Makes the logits of some rows of `stream`.
    fn make_logits(&mut self, first: usize, rows: usize) -> Result<()> {
        let decoder: &Decoder = self.model.decoder();
        let (width, vocabulary) = (decoder.description.width, decoder.description.vocabulary);
        if self.logits.len() < rows * vocabulary {
            self.logits.resize(rows * vocabulary)?;
        }
        let stream = RowsMut::contiguous(&mut self.stream[first * width..][..rows * width], rows, width)?;
        let logits = RowsMut::contiguous(&mut self.logits[..rows * vocabulary], rows, vocabulary)?;
        let mut frame = self.arena.frame(decoder.logits_need(rows))?;
        decoder.logits(stream.as_rows(), logits, &mut frame)
    }
}

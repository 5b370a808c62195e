//! Text after a prompt, token by token.
//!
//! Most of the time that one token takes goes into reading weights, and several tokens at once take little more. So what may
//! come is guessed first ([`Draft`]), all guesses go through the model together, and those that the model would have chosen
//! itself are kept (Leviathan et al., 2023; Saxena, 2023, for guesses from the text alone). Logits of a token have the same
//! bits whether it comes alone or with others, and the sampler sees the same logits in the same order: the text is the same
//! with guesses and without.

mod draft;
mod grammar;
mod pace;
mod stops;

use self::pace::Pace;
use crate::sampling::{Sampler, SamplingOptions};
use crate::session::Session;
use crate::{Error, Result};

pub use draft::{Draft, DraftModel, Lookup};
pub use grammar::Grammar;
pub use stops::Stops;

/// Tokens of a prompt that are taken in at once, between which it can be stopped.
const PIECE: usize = 512;

/// Writes tokens after a prompt.
///
/// ```no_run
/// use regard_models::generate::{Generator, Lookup};
/// use regard_models::sampling::SamplingOptions;
/// use regard_models::tokenizer::Special;
/// use regard_models::{CacheDtype, LoadOptions, Model};
///
/// let model = Model::load("model.gguf".as_ref(), &LoadOptions::default())?;
/// let session = model.session(2048, CacheDtype::F16)?;
/// let mut generator = Generator::new(session, SamplingOptions::default())?.with_draft(Lookup::default())?;
/// generator.read(&model.tokenizer().encode_sequence("Once upon a time", Special::AsText)?)?;
/// let mut text = model.tokenizer().stream();
/// while let Some(token) = generator.next_token()?.filter(|&token| !model.tokenizer().ends_generation(token)) {
///     print!("{}", text.push(token));
/// }
/// print!("{}", text.finish());
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct Generator<'m> {
    session: Session<'m>,
    sampler: Sampler,
    draft: Option<Box<dyn Draft + 'm>>,
    grammar: Option<Grammar<'m>>,
    pace: Pace,
    /// The token that was chosen last and has not been taken in.
    waiting: Option<u32>,
    /// Guesses behind it that went through the model.
    guesses: Vec<u32>,
    /// How many of them turned out right.
    right: usize,
    /// Whether the session has logits of the token behind the right ones.
    ready: bool,
    counts: Counts,
}

/// How guesses have fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens that were guessed.
    pub guessed: usize,
    /// Guesses that were right.
    pub right: usize,
    /// Times that the model was run for new tokens.
    pub runs: usize,
}

impl<'m> Generator<'m> {
    /// A generator without guesses. What the session has seen counts as the beginning of what it reads next.
    ///
    /// # Errors
    /// A sampling option is outside its range.
    pub fn new(session: Session<'m>, options: SamplingOptions) -> Result<Self> {
        let sampler = Sampler::new(options, session.vocabulary())?;
        Ok(Generator {
            session,
            sampler,
            draft: None,
            grammar: None,
            pace: Pace::default(),
            waiting: None,
            guesses: Vec::new(),
            right: 0,
            ready: false,
            counts: Counts::default(),
        })
    }

    /// The same text, with guesses where they are found to make it faster.
    ///
    /// # Errors
    /// The guesses are of another vocabulary.
    pub fn with_draft(mut self, draft: impl Draft + 'm) -> Result<Self> {
        draft.check(self.session.model())?;
        self.draft = Some(Box::new(draft));
        Ok(self)
    }

    /// Text that a grammar allows, and its end where it is whole.
    ///
    /// # Errors
    /// [`Error::OtherModel`]: the grammar is in tokens of another model.
    pub fn with_grammar(mut self, grammar: Grammar<'m>) -> Result<Self> {
        if !std::ptr::eq(grammar.model(), self.session.model()) {
            return Err(Error::OtherModel);
        }
        self.grammar = Some(grammar);
        Ok(self)
    }

    /// Draws begin anew, as those of a new generator do; what the session has seen is kept.
    pub fn restart(&mut self) {
        self.sampler.restart();
    }

    /// [`Session::expect`]: how many tokens the next text will have at the most, its prompt included.
    pub fn expect(&mut self, tokens: usize) {
        self.session.expect(tokens);
    }

    /// The session. Beside the text so far it may have taken in guesses, which are forgotten where they turn out wrong.
    pub fn session(&self) -> &Session<'m> {
        &self.session
    }

    /// How guesses have fared so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes in a prompt, and gives the number of tokens that the session lacked: what it has seen and the prompt begins with
    /// is kept. The prompt is what counts as recent for the repetition penalty; draws go on from the text before.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read(&mut self, prompt: &[u32]) -> Result<usize> {
        self.read_while(prompt, &mut |_, _| true)
    }

    /// The same, asking before each piece with the tokens that are taken in and those that are to be, whether to go on.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_while(&mut self, prompt: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<usize> {
        if prompt.is_empty() {
            return Err(Error::NoTokens);
        }
        (self.waiting, self.ready, self.right) = (None, false, 0);
        self.guesses.clear();
        if let Some(grammar) = &mut self.grammar {
            grammar.restart()?;
        }
        let held = self.session.rewind(prompt);
        let lacking = prompt.len() - held;
        self.pace.begin();
        self.sampler.forget();
        prompt.iter().for_each(|&token| self.sampler.accept(token));
        for (piece, tokens) in prompt[held..].chunks(PIECE).enumerate() {
            if !go_on(piece * PIECE, lacking) {
                return Ok(piece * PIECE);
            }
            self.session.feed(tokens)?;
        }
        self.ready = true;
        Ok(lacking)
    }

    /// The next token; none where the context is full, or nothing was read.
    ///
    /// # Errors
    /// The model gives logits that are no numbers.
    pub fn next_token(&mut self) -> Result<Option<u32>> {
        if !self.ready && !self.advance()? {
            return Ok(None);
        }
        let logits = self.session.logits_of(self.right);
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(logits)?;
        }
        let token = self.sampler.sample(logits)?;
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        match self.guesses.get(self.right) {
            // It has been taken in already, and what follows it is known.
            Some(&guess) if guess == token => {
                self.sampler.accept(token);
                self.right += 1;
            }
            _ => {
                self.session.truncate(self.session.len() - (self.guesses.len() - self.right));
                self.settle();
                self.waiting = Some(token);
                self.ready = false;
            }
        }
        Ok(Some(token))
    }

    /// Takes the last token in, and guesses with it. Where that fails nothing is taken in.
    fn advance(&mut self) -> Result<bool> {
        let room = self.session.context() - self.session.len();
        let Some(token) = self.waiting.filter(|_| room > 0) else { return Ok(false) };
        let clock = pace::Clock::start();
        let fed = self.guess(token, room - 1).and_then(|()| {
            let all: Vec<u32> = [token].into_iter().chain(self.guesses.iter().copied()).collect();
            self.session.feed_rows(&all)
        });
        if let Err(error) = fed {
            self.guesses.clear();
            return Err(error);
        }
        self.sampler.accept(token);
        self.pace.took(self.guesses.len(), clock);
        (self.waiting, self.right, self.ready) = (None, 0, true);
        self.counts.runs += 1;
        self.counts.guessed += self.guesses.len();
        Ok(true)
    }

    /// Guesses up to `room` tokens behind `token`, if that pays.
    fn guess(&mut self, token: u32, room: usize) -> Result<()> {
        let Some(draft) = &mut self.draft else { return Ok(()) };
        let most = self.pace.guesses().min(room);
        if most > 0 {
            draft.guess(self.session.tokens(), token, most, &mut self.guesses)?;
            self.guesses.truncate(most);
        }
        Ok(())
    }

    /// Counts the guesses that are no longer open.
    fn settle(&mut self) {
        self.pace.fared(self.right, self.guesses.len());
        self.counts.right += self.right;
        self.guesses.clear();
        self.right = 0;
    }

    /// Takes in the last token of each generator that waits for it, together: the weights are read once for all, and each
    /// one's next token is the same as alone. There are no guesses then.
    ///
    /// # Errors
    /// The generators are of different models; then nothing is taken in.
    pub fn advance_together(generators: &mut [&mut Generator<'m>]) -> Result<()> {
        let waits = |generator: &Generator<'_>| {
            let full = generator.session.len() == generator.session.context();
            generator.waiting.filter(|_| !full)
        };
        let tokens: Vec<Option<u32>> = generators.iter().map(|generator| waits(generator)).collect();
        let waiting = generators.iter_mut().zip(&tokens).filter(|(_, token)| token.is_some());
        let mut sessions: Vec<&mut Session<'m>> = waiting.map(|(generator, _)| &mut generator.session).collect();
        let fed: Vec<u32> = tokens.iter().flatten().copied().collect();
        Session::feed_together(&mut sessions, &fed)?;
        for (generator, token) in generators.iter_mut().zip(tokens) {
            let Some(token) = token else { continue };
            (generator.waiting, generator.ready) = (None, true);
            generator.sampler.accept(token);
            generator.counts.runs += 1;
        }
        Ok(())
    }
}

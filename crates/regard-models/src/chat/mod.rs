//! Chat templates: the text that a model was trained to see for a conversation.

mod json;
mod limit;
mod python;

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value};
use serde_json::Value as Json;

use minijinja::{Environment, ErrorKind, State, context, filters};

use crate::error::{Error, Optional, Result};
use crate::folder::Folder;
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

/// The key of the template in a GGUF file.
pub(crate) const KEY: &str = "tokenizer.chat_template";
/// What the template engine calls the one template of its environment.
const NAME: &str = "chat template";

/// What one side said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who: `system`, `user` or `assistant`, or another role that the template knows.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    fn value(&self) -> Value {
        context! { role => self.role.as_str(), content => self.content.as_str() }
    }
}

/// Whether a rendered conversation ends by opening the assistant's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The assistant's turn is open: the model goes on from here.
    Open,
    /// The conversation ends after its last message.
    Closed,
}

/// A chat template, rendered as Hugging Face's libraries render it.
///
/// A template is a program from an untrusted file. It reaches no file and no network, it runs for a bounded number of
/// steps and no longer than a second, and its text has a bounded length.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// What messages call the template.
    template: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses a template. `bos` and `eos` are the texts of the tokens that begin and end a sequence.
    ///
    /// # Errors
    ///
    /// [`Error::Template`], with the line, if it does not parse.
    ///
    /// ```
    /// use regard_models::chat::{ChatTemplate, Message, Turn};
    ///
    /// let source = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}\
    ///               {% if add_generation_prompt %}<assistant>{% endif %}";
    /// let template = ChatTemplate::new(source, "", "")?;
    /// assert_eq!(template.render(&[Message::new("user", "Hi!")], Turn::Open)?, "<user>Hi!<assistant>");
    /// # Ok::<(), regard_models::Error>(())
    /// ```
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        Self::named(NAME.to_owned(), source, bos, eos)
    }

    /// The template in `file`, if it has one.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); the message names the file.
    pub fn from_gguf(file: &Gguf, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
        let Some(source) = file.string(KEY).optional()? else { return Ok(None) };
        let template = format!("{}: {KEY}", file.file());
        Self::named(template, source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// The template of a folder, if it has one: chat_template.jinja, or the default one of tokenizer_config.json.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); the message names the file.
    pub fn from_folder(folder: &Folder) -> Result<Option<ChatTemplate>> {
        let Some((name, source)) = Self::source_in(folder)? else { return Ok(None) };
        // A token that only has a number is none to templates.
        let text = |key: &str| Ok::<_, Error>(folder.special_token(key)?.unwrap_or_default());
        let (bos, eos) = (text("bos_token")?, text("eos_token")?);
        Self::named(folder.path().join(name).display().to_string(), &source, &bos, &eos).map(Some)
    }

    /// The file of a folder that has a template, and its text.
    pub(crate) fn source_in(folder: &Folder) -> Result<Option<(&'static str, String)>> {
        const OWN: &str = "chat_template.jinja";
        const SETTINGS: &str = "tokenizer_config.json";
        if let Some(source) = folder.text(OWN)? {
            return Ok(Some((OWN, source)));
        }
        let settings = folder.settings(SETTINGS)?;
        // One, or several with names.
        let source = match &settings["chat_template"] {
            Json::Null => None,
            Json::String(source) => Some(source.as_str()),
            Json::Array(several) if several.iter().all(|entry| entry["name"].is_string()) => {
                several.iter().filter(|entry| entry["name"] == "default").find_map(|entry| entry["template"].as_str())
            }
            other => {
                let problem = format!("it is {other}, expected a text, or a list of texts with names");
                let (file, field) = (folder.path().join(SETTINGS).display().to_string(), "chat_template".to_owned());
                return Err(Error::Malformed { file, field, problem });
            }
        };
        Ok(source.map(|source| (SETTINGS, source.to_owned())))
    }

    fn named(template: String, source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        let failed = |problem| Error::Template { template: template.clone(), line: 0, problem };
        limit::source(source).map_err(failed)?;
        let source = source.to_owned();
        let environment = limit::bounded(|| environment(source)).map_err(failed)?;
        match environment {
            Ok(environment) => {
                let (bos, eos) = (bos.to_owned(), eos.to_owned());
                Ok(ChatTemplate { environment: Arc::new(environment), template, bos, eos })
            }
            Err(error) => Err(describe(template, &error)),
        }
    }

    /// The text of a conversation, control tokens and all: encode it with
    /// [`Special::Parse`](crate::tokenizer::Special::Parse).
    ///
    /// # Errors
    ///
    /// [`Error::Template`], with the line, if the template refuses the conversation, makes nothing of it, fails, or runs
    /// into its limits.
    pub fn render(&self, messages: &[Message], turn: Turn) -> Result<String> {
        let context = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<_>>(),
            add_generation_prompt => turn == Turn::Open,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            // Templates ask whether there are any.
            tools => Value::from(()),
            documents => Value::from(()),
        };
        let said = messages.iter().map(|message| message.content.len()).sum();
        let mut text = limit::Text::for_content(said);
        let environment = Arc::clone(&self.environment);
        let rendered = limit::bounded(move || {
            environment.get_template(NAME)?.render_captured_to(context, &mut text)?;
            Ok(text.into_bytes())
        });
        let failed = |problem| Error::Template { template: self.template.clone(), line: 0, problem };
        let bytes = rendered.map_err(failed)?.map_err(|error| describe(self.template.clone(), &error))?;
        if bytes.is_empty() && !messages.is_empty() {
            return Err(failed("it makes no text of the conversation".to_owned()));
        }
        String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
    }
}

/// A template, and what templates may call.
fn environment(source: String) -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(whitespace());
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        if method == "format" {
            limit::widths(&[std::slice::from_ref(value), arguments].concat())?;
        }
        python::method(state, value, method, arguments)
    });
    for (name, filter) in
        [("format", Value::from_function(filters::format)), ("indent", Value::from_function(filters::indent))]
    {
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<Value>| {
            // What is indented is no width.
            limit::widths(&arguments[usize::from(name == "indent").min(arguments.len())..])?;
            filter.call(state, &arguments)
        });
    }
    python::speak(&mut environment);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", json::tojson);
    limit::steps(&mut environment);
    environment.add_template_owned(NAME, python::plain_blocks(&source))?;
    Ok(environment)
}

/// A line that holds only a block leaves nothing behind.
fn whitespace() -> SyntaxConfig {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    syntax.build().unwrap_or_default()
}

fn describe(template: String, error: &minijinja::Error) -> Error {
    let problem = match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    Error::Template { template, line: error.line().unwrap_or(0), problem }
}

/// A template's way to refuse a conversation, such as one whose roles do not alternate.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The time of day in the format of C's `strftime`.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

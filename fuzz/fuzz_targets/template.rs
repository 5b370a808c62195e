//! Any text as a chat template.
#![no_main]

use libfuzzer_sys::fuzz_target;
use regard_models::chat::{ChatTemplate, Message, Turn};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi! <|im_end|>\n")];
    let _ = template.render(&messages, Turn::Open);
});

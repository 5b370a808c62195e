//! What was said so far, cut down at its old end when it no longer fits.

use regard_models::chat::Message;

/// A conversation: perhaps a system message, then messages of user and assistant.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    system: Option<Message>,
    messages: Vec<Message>,
}

impl Conversation {
    /// A conversation in which nothing was said, under an optional system message.
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system: system.map(|text| Message::new("system", text)), messages: Vec::new() }
    }

    /// Forgets everything but the system message.
    pub(crate) fn reset(&mut self) {
        self.messages.clear();
    }

    /// Adds what somebody said.
    pub(crate) fn say(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Every message, the system's first.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.system.iter().chain(&self.messages).cloned().collect()
    }

    /// Drops the oldest turns until `encode` makes at most `room` tokens of the rest, and returns these with the
    /// number of turns dropped; a turn is a user's message and what was answered. The system message and the last
    /// turn stay, so the result may be longer than `room` all the same.
    ///
    /// # Errors
    /// What `encode` returns.
    pub(crate) fn fit<E>(
        &mut self,
        room: usize,
        encode: impl Fn(&[Message]) -> Result<Vec<u32>, E>,
    ) -> Result<(Vec<u32>, usize), E> {
        let mut dropped = 0;
        loop {
            let tokens = encode(&self.messages())?;
            // Where the second turn starts, if there is one.
            let second = self.messages.iter().skip(1).position(|message| message.role == "user");
            match second {
                Some(second) if tokens.len() > room => {
                    self.messages.drain(..=second);
                    dropped += 1;
                }
                _ => return Ok((tokens, dropped)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// One token a byte, and three for each message.
    fn encode(messages: &[Message]) -> Result<Vec<u32>, Infallible> {
        let bytes = messages.iter().flat_map(|message| message.content.bytes().map(u32::from).chain([0, 0, 0]));
        Ok(bytes.collect())
    }

    proptest! {
        #[test]
        fn the_longest_end_that_fits_is_kept(
            system in prop::option::of("[a-z]{0,20}"),
            turns in prop::collection::vec(("[a-z]{0,20}", prop::option::of("[a-z]{0,20}")), 1..12),
            room in 0..300_usize,
        ) {
            let build = |turns: &[(String, Option<String>)]| {
                let mut conversation = Conversation::new(system.clone());
                for (asked, answered) in turns {
                    conversation.say(Message::new("user", asked));
                    answered.iter().for_each(|text| conversation.say(Message::new("assistant", text)));
                }
                conversation
            };
            let expected = (0..turns.len())
                .find(|&dropped| encode(&build(&turns[dropped..]).messages()).unwrap().len() <= room)
                .unwrap_or(turns.len() - 1);
            let mut conversation = build(&turns);
            let (tokens, dropped) = conversation.fit(room, encode).unwrap();
            prop_assert_eq!(dropped, expected);
            prop_assert_eq!(tokens, encode(&build(&turns[dropped..]).messages()).unwrap());
        }
    }
}

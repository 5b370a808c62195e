//! GPT-2's byte alphabet: every byte written as a printable character, so that a vocabulary of bytes is text.

/// The character that stands for a byte: itself where Latin-1 prints it, else one from U+0100 on, in order.
pub(super) fn letter(byte: u8) -> char {
    LETTERS[byte as usize]
}

/// The byte that a character stands for.
pub(super) fn byte(letter: char) -> Option<u8> {
    match letter as u32 {
        // The characters from U+0100 on count the bytes that do not print.
        code @ 0x100..0x200 => (0..=u8::MAX).filter(|&byte| !prints(byte)).nth(code as usize - 0x100),
        code => u8::try_from(code).ok().filter(|&byte| prints(byte)),
    }
}

const fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

static LETTERS: [char; 256] = {
    let mut letters = ['\0'; 256];
    let mut next = 0x100;
    let mut index = 0;
    while index < 256 {
        letters[index] = if prints(index as u8) {
            index as u8 as char
        } else {
            next += 1;
            match char::from_u32(next - 1) {
                Some(letter) => letter,
                None => unreachable!(),
            }
        };
        index += 1;
    }
    letters
};

/// Appends the bytes that the letters of a token stand for.
pub(super) fn spell(text: &str, bytes: &mut Vec<u8>) {
    for letter in text.chars() {
        match byte(letter) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bytes_and_letters_are_one_to_one() {
        let letters: HashSet<char> = (0..=u8::MAX).map(letter).collect();
        assert_eq!(letters.len(), 256);
        for value in 0..=u8::MAX {
            assert_eq!(byte(letter(value)), Some(value));
        }
        // The published examples: space is Ġ, newline is Ċ.
        assert_eq!((letter(b' '), letter(b'\n')), ('Ġ', 'Ċ'));
        assert_eq!((byte(' '), byte('€'), byte('\u{144}')), (None, None, None));
    }
}

//! Masks as text, and back.

use proptest::prelude::*;
use regard_masks::{Edges, Error, Mask};

use crate::set::{cases, numbers};

fn read(text: &str) -> Mask {
    text.parse().unwrap_or_else(|error| panic!("{text:.200}: {error}"))
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn what_is_written_is_read_as_the_same(set in numbers()) {
        let mask = set.mask();
        prop_assert_eq!(read(&mask.to_string()), mask);
    }

    /// The blanks do not matter, and neither do parentheses around what is an operand anyway.
    #[test]
    fn blanks_do_not_matter(set in numbers(), blanks in prop::collection::vec("[ \t\n]{0,2}", 1..9)) {
        let mask = set.mask();
        let mut blanks = blanks.iter().cycle();
        let mut text = String::new();
        for letter in mask.to_string().chars().filter(|&letter| letter != ' ') {
            match letter {
                '!' | '&' | '|' | '(' | ')' | ',' => {
                    text.extend([blanks.next().unwrap(), &letter.to_string(), blanks.next().unwrap()].map(String::as_str));
                }
                _ => text.push(letter),
            }
        }
        prop_assert_eq!(read(&text), mask.clone());
        prop_assert_eq!(read(&format!("(({text}))")), mask);
    }

    #[test]
    fn no_text_does_harm(text in "\\PC{0,60}") {
        harmless(&text);
    }

    #[test]
    fn no_text_that_is_nearly_a_mask_does_harm(
        set in numbers(), cuts in prop::collection::vec((any::<prop::sample::Index>(), "[a-z0-9(),.|&!∞ ]{0,3}"), 1..4),
    ) {
        let mut letters: Vec<char> = set.mask().to_string().chars().collect();
        for (cut, other) in cuts {
            if letters.is_empty() {
                break;
            }
            let at = cut.index(letters.len());
            letters.splice(at..at + 1, other.chars());
        }
        harmless(&letters.into_iter().collect::<String>());
    }

    #[test]
    fn tokens_in_any_order_do_no_harm(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40)) {
        harmless(&tokens.concat());
    }
}

const TOKENS: &[&str] = &[
    "full",
    "causal",
    "window(",
    "prefix(",
    "keys(",
    "random(",
    "by_batch(",
    "by_head(",
    "global_keys(",
    "strided(",
    "1",
    "0",
    "0.5",
    "∞",
    "inf",
    ",",
    "..",
    "(",
    ")",
    ")",
    ")",
    "!",
    "&",
    "|",
    " ",
    "18446744073709551616",
    "-",
    "NaN",
    "e9",
];

/// The text is a mask that is written so that it reads the same, or an error that points into it.
fn harmless(text: &str) {
    match text.parse::<Mask>() {
        Ok(mask) => assert_eq!(read(&mask.to_string()), mask, "{text}"),
        Err(Error::Parse { at, has, expected }) => {
            assert!(text.is_char_boundary(at), "{text}: {at}");
            assert!(!has.is_empty() && !expected.is_empty());
        }
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn operations_bind_as_in_rust() {
    let [a, b, c, d] = [Mask::prefix(1), Mask::prefix(2), Mask::prefix(3), Mask::prefix(4)];
    let expect = |text: &str, mask: Mask| {
        let mut long = String::new();
        for letter in text.chars() {
            match letter {
                'a'..='d' => long.push_str(&format!("prefix({})", letter as u32 - 'a' as u32 + 1)),
                _ => long.push(letter),
            }
        }
        assert_eq!(read(&long), mask, "{text}");
        assert_eq!(mask.to_string(), long);
    };
    expect("a | b & c", &a | (&b & &c));
    expect("a & b | c", (&a & &b) | &c);
    expect("a | b | c", (&a | &b) | &c);
    expect("a | (b | c)", &a | (&b | &c));
    expect("a & (b & c) & d", &a & (&b & &c) & &d);
    expect("!a & b", !&a & &b);
    expect("!(a & b)", !(&a & &b));
    expect("!!a | !(b | !c) & d", !!&a | (!(&b | !&c) & &d));
    expect("(a | b) & (c | d)", (&a | &b) & (&c | &d));
}

#[test]
fn every_primitive_is_read() {
    let flags: Vec<bool> = (0..9).map(|key| key != 3 && key > 0).collect();
    for (text, mask) in [
        ("full", Mask::full()),
        ("causal", Mask::causal()),
        ("window(∞, 0)", Mask::window(None, Some(0))),
        ("window( inf ,18446744073709551615)", Mask::window(None, Some(usize::MAX))),
        ("prefix(0)", Mask::prefix(0)),
        ("global_keys()", Mask::global_keys([])),
        ("global_keys(1, 5, 9)", Mask::global_keys([9, 1, 5])),
        ("global_keys(9, 1 .. 4, 2..6)", Mask::global_keys([9, 1, 2, 3, 4, 5])),
        ("global_queries(18446744073709551615, 7)", Mask::global_queries([7])),
        ("keys(1..3, 4..9)", Mask::keys(&flags)),
        ("block_diagonal(64)", Mask::block_diagonal(64).unwrap()),
        ("strided(8)", Mask::strided(8).unwrap()),
        ("random(0.1, 7)", Mask::random(0.1, 7).unwrap()),
        ("random(1e-3, 7)", Mask::random(0.001, 7).unwrap()),
        ("by_batch(causal)", Mask::causal()),
        (
            "by_batch(causal, by_head(full, !full)) & full",
            Mask::by_batch([Mask::causal(), Mask::by_head([Mask::full(), !Mask::full()]).unwrap()]).unwrap()
                & Mask::full(),
        ),
    ] {
        assert_eq!(read(text), mask, "{text}");
    }
}

#[test]
fn errors_say_where_and_what() {
    for (text, error) in [
        ("", "mask, at byte 0: the end; expected a mask, `!` or `(`"),
        ("causal & ", "mask, at byte 9: the end; expected a mask, `!` or `(`"),
        ("causal causal", "mask, at byte 7: `causal`; expected `&`, `|` or the end"),
        ("(causal", "mask, at byte 7: the end; expected `&`, `|` or `)`"),
        ("causal)", "mask, at byte 6: `)`; expected `&`, `|` or the end"),
        ("by_head(full; causal)", "mask, at byte 12: `;`; expected `&`, `|`, `,` or `)`"),
        ("by_head()", "mask, at byte 8: `)`; expected a mask, `!` or `(`"),
        ("window(∞, x)", "mask, at byte 12: `x`; expected a whole number of 64 bits"),
        ("prefix 3", "mask, at byte 7: `3`; expected `(`"),
        ("prefix(18446744073709551616)", "mask, at byte 7: `18446744073709551616`; expected a whole number of 64 bits"),
        ("prefix(-1)", "mask, at byte 7: `-`; expected a whole number of 64 bits"),
        ("full & strided(0)", "mask, at byte 7: strided with step 0; expected a step of at least 1"),
        ("random(2, 3)", "mask, at byte 0: random with density 2; expected 0 to 1"),
        ("random(one, 3)", "mask, at byte 7: `one`; expected a number"),
        (
            "full | by_head(by_head(full, full), full, full)",
            "mask, at byte 7: parts that tell 3 and 2 heads apart; expected the same number, or 1",
        ),
        ("edges(3 pairs)", "mask, at byte 0: `edges`; expected a mask, `!` or `(`"),
    ] {
        assert_eq!(text.parse::<Mask>().unwrap_err().to_string(), error, "{text}");
    }
    // Data cannot be written as text.
    let graph = Mask::causal() & Mask::edge_pairs([(0, 1)], Edges::Directed).unwrap();
    assert!(graph.to_string().parse::<Mask>().is_err());
}

#[test]
fn text_may_nest_as_deep_as_it_is_long() {
    let most = if cfg!(miri) { 300 } else { 1 << 16 };
    let nested = |open: &str, inner: &str, close: &str| {
        let depth = (most - inner.len()) / (open.len() + close.len());
        [&open.repeat(depth), inner, &close.repeat(depth)].concat()
    };
    assert_eq!(read(&nested("(", "causal", ")")), Mask::causal());
    assert_eq!(read(&nested("by_head(", "causal", ")")), Mask::causal());
    assert_eq!(read(&nested("by_head(full,by_batch(full,", "causal", "))")).select(1, 1), Mask::causal());
    harmless(&nested("!", "causal", ""));
    harmless(&nested("!(full | ", "causal", ")"));
    harmless(&nested("full & (", "causal", ")"));
    for open in ["(", "!", "by_batch(", "by_head(full,", "window(", "keys(1,"] {
        assert!(open.repeat(most / open.len()).parse::<Mask>().is_err(), "{open}");
    }
    let error = " ".repeat((1 << 16) + 1).parse::<Mask>().unwrap_err();
    assert_eq!(error.to_string(), "mask, at byte 0: 65537 bytes; expected at most 65536");
}

//! RE2's syntax, which Envoy's regular expressions are written in, in the words of the `regex` crate: by
//! these rules the proxy compiles patterns, and the control plane refuses what the proxy would.
//!
//! The two agree on most of it. Where they differ a pattern must not silently change its meaning:
//! `\d`, `\w`, `\s` and `\b` know ASCII only in RE2; `[`, `&&`, `--` and `~~` have no meaning inside
//! its classes; it has `\Q…\E`, `\C` and octal escapes, and no verbose mode, no `**`, no count above
//! 1000.

use std::{iter::Peekable, str::Chars};

use regex::bytes::{Regex, RegexBuilder};

/// Compiled size of one regex, bytes: keeps a hostile pattern from taking the memory.
const SIZE_LIMIT: usize = 4 * 1024 * 1024;

/// RE2's largest repetition count.
const MAX_REPETITIONS: u32 = 1000;

const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// Compiles a pattern that matches anywhere, as RE2's `PartialMatch`.
///
/// # Errors
/// Says what is wrong with it; for what RE2 does not have, in its words.
pub fn compile_regex(pattern: &str) -> Result<Regex, String> {
    compile(&translate(pattern)?)
}

/// Compiles a pattern that must match the whole value, as RE2's `FullMatch`.
///
/// # Errors
/// As [`compile_regex`].
pub fn compile_whole_regex(pattern: &str) -> Result<Regex, String> {
    // A group keeps alternations together; `\z` is the end of the text, not of a line.
    compile(&format!(r"\A(?:{})\z", translate(pattern)?))
}

fn compile(translated: &str) -> Result<Regex, String> {
    RegexBuilder::new(translated)
        .unicode(true)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| {
            // The library draws the pattern over several lines; its last line has the reason.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or("").trim();
            reason.trim_start_matches("error: ").to_owned()
        })
}

/// Translates a pattern.
///
/// # Errors
/// Says what RE2 does not have, in its words.
fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator {
        rest: pattern.chars().peekable(),
        out: String::with_capacity(pattern.len() + 8),
    };
    translator.run()?;
    Ok(translator.out)
}

struct Translator<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

impl Translator<'_> {
    fn run(&mut self) -> Result<(), String> {
        // Whether the last thing was a repetition, which no other may follow.
        let mut was_repeated = false;
        while let Some(character) = self.rest.next() {
            let is_repetition = match character {
                '\\' => self.escape().map(|()| false)?,
                '[' => self.class().map(|()| false)?,
                '(' => self.group().map(|()| false)?,
                '*' | '+' | '?' => self.repetition(&character.to_string(), was_repeated)?,
                '{' => match self.count()? {
                    Some(count) => self.repetition(&count, was_repeated)?,
                    None => {
                        self.out.push_str(r"\{");
                        false
                    }
                },
                other => {
                    self.out.push(other);
                    false
                }
            };
            was_repeated = is_repetition;
        }
        Ok(())
    }

    /// Writes a repetition and the `?` that makes it lazy.
    fn repetition(&mut self, operator: &str, was_repeated: bool) -> Result<bool, String> {
        if was_repeated {
            return Err(format!("bad repetition operator: {operator}"));
        }
        self.out.push_str(operator);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        Ok(true)
    }

    /// What follows a `{`, if it is a count: `{n}`, `{n,}` or `{n,m}`. Anything else is a literal `{`.
    fn count(&mut self) -> Result<Option<String>, String> {
        let mut ahead = self.rest.clone();
        let mut text = String::new();
        for character in ahead.by_ref() {
            text.push(character);
            if character == '}' {
                break;
            }
        }
        let Some(inner) = text.strip_suffix('}') else {
            return Ok(None);
        };
        let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if low.is_empty() || !is_number(low) || !is_number(high) {
            return Ok(None);
        }
        let is_too_large = |text: &str| {
            !text.is_empty() && text.parse::<u32>().map_or(true, |n| n > MAX_REPETITIONS)
        };
        if is_too_large(low) || is_too_large(high) {
            return Err(format!("invalid repetition size: {{{inner}}}"));
        }
        self.rest = ahead;
        Ok(Some(format!("{{{inner}}}")))
    }

    /// What follows a `(`.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        let mut seen = String::from("(?");
        while let Some(character) = self.rest.next() {
            seen.push(character);
            self.out.push(character);
            match character {
                ':' | ')' => return Ok(()),
                // The name of a group; what it may be is the library's business.
                '<' if matches!(seen.as_str(), "(?<" | "(?P<") => {
                    return match self.rest.peek() {
                        Some('=' | '!') => Err(format!("invalid perl operator: {seen}")),
                        _ => Ok(()),
                    };
                }
                'P' if seen == "(?P" => {}
                'i' | 'm' | 's' | 'U' | '-' => {}
                _ => return Err(format!("invalid perl operator: {seen}")),
            }
        }
        Err(format!("missing ): {seen}"))
    }

    /// What follows a `\` outside of classes.
    fn escape(&mut self) -> Result<(), String> {
        let Some(character) = self.rest.next() else {
            return Err(r"trailing \ at end".to_owned());
        };
        match character {
            'Q' => self.quoted(),
            'C' => self.out.push_str("(?s-u:.)"),
            'b' => self.out.push_str(r"(?-u:\b)"),
            'B' => self.out.push_str(r"(?-u:\B)"),
            'A' | 'z' => self.out.extend(['\\', character]),
            'd' | 's' | 'w' => {
                self.out.push('[');
                self.out.push_str(perl_class(character));
                self.out.push(']');
            }
            'D' | 'S' | 'W' => {
                self.out.push_str("[^");
                self.out
                    .push_str(perl_class(character.to_ascii_lowercase()));
                self.out.push(']');
            }
            'p' | 'P' => self.unicode_class(character),
            other => {
                let literal = self.escaped_literal(other)?;
                self.out.push_str(&regex::escape(&literal.to_string()));
            }
        }
        Ok(())
    }

    /// Text up to `\E` stands for itself.
    fn quoted(&mut self) {
        let mut text = String::new();
        while let Some(character) = self.rest.next() {
            if character == '\\' && self.rest.next_if_eq(&'E').is_some() {
                break;
            }
            text.push(character);
        }
        self.out.push_str(&regex::escape(&text));
    }

    /// `\pN`, `\p{Name}`, `\p{^Name}`.
    fn unicode_class(&mut self, letter: char) {
        self.out.push('\\');
        let mut letter = letter;
        let is_named = self.rest.next_if_eq(&'{').is_some();
        if is_named && self.rest.next_if_eq(&'^').is_some() {
            letter = if letter == 'p' { 'P' } else { 'p' };
        }
        self.out.push(letter);
        if is_named {
            self.out.push('{');
        } else {
            self.out.extend(self.rest.next());
        }
    }

    /// An escape that stands for one character.
    fn escaped_literal(&mut self, character: char) -> Result<char, String> {
        let invalid = |text: String| format!(r"invalid escape sequence: \{text}");
        let number = |digits: &str, radix| {
            u32::from_str_radix(digits, radix)
                .ok()
                .and_then(char::from_u32)
        };
        match character {
            'a' => Ok('\u{7}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\u{b}'),
            '0'..='7' => {
                // One digit from 1 on would be a back-reference.
                let mut digits = character.to_string();
                while digits.len() < 3
                    && let Some(digit) = self.rest.next_if(|next| matches!(next, '0'..='7'))
                {
                    digits.push(digit);
                }
                if digits.len() == 1 && character != '0' {
                    return Err(invalid(digits));
                }
                number(&digits, 8).ok_or_else(|| invalid(digits))
            }
            'x' => {
                let mut digits = String::new();
                if self.rest.next_if_eq(&'{').is_some() {
                    while let Some(digit) = self.rest.next_if(|next| *next != '}') {
                        digits.push(digit);
                    }
                    if self.rest.next().is_none() {
                        return Err(invalid(format!("x{{{digits}")));
                    }
                } else {
                    digits.extend(self.rest.next());
                    digits.extend(self.rest.next());
                    if digits.len() != 2 {
                        return Err(invalid(format!("x{digits}")));
                    }
                }
                number(&digits, 16).ok_or_else(|| invalid(format!("x{digits}")))
            }
            other if other.is_ascii() && !other.is_ascii_alphanumeric() && other != '_' => {
                Ok(other)
            }
            other => Err(invalid(other.to_string())),
        }
    }

    /// What follows a `[`.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let Some(character) = self.rest.next() else {
                return Err("missing ]".to_owned());
            };
            match character {
                ']' if !is_first => break,
                '[' if self.rest.peek() == Some(&':') => self.posix_class()?,
                '\\' if self
                    .rest
                    .peek()
                    .is_some_and(|next| "dswDSWpP".contains(*next)) =>
                {
                    self.named_class();
                }
                other => self.range(other)?,
            }
            is_first = false;
        }
        self.out.push(']');
        Ok(())
    }

    fn named_class(&mut self) {
        match self.rest.next() {
            Some(letter @ ('d' | 's' | 'w')) => self.out.push_str(perl_class(letter)),
            Some(letter @ ('p' | 'P')) => self.unicode_class_name(letter),
            Some(letter) => {
                self.out.push_str("[^");
                self.out.push_str(perl_class(letter.to_ascii_lowercase()));
                self.out.push(']');
            }
            None => {}
        }
    }

    /// Inside of a class the name must be taken whole, since its braces are no members.
    fn unicode_class_name(&mut self, letter: char) {
        self.unicode_class(letter);
        if self.out.ends_with('{') {
            for character in self.rest.by_ref() {
                self.out.push(character);
                if character == '}' {
                    break;
                }
            }
        }
    }

    /// `[:alpha:]`, `[:^alpha:]`; anything else that begins like it is a literal `[`.
    fn posix_class(&mut self) -> Result<(), String> {
        let text = self.rest.clone().collect::<String>();
        let Some((name, _)) = text
            .strip_prefix(':')
            .and_then(|text| text.split_once(":]"))
        else {
            return self.range('[');
        };
        let plain = name.strip_prefix('^').unwrap_or(name);
        if !POSIX_CLASSES.contains(&plain) {
            return Err(format!("invalid character class range: [:{name}:]"));
        }
        self.out.push_str("[:");
        self.out.push_str(name);
        self.out.push_str(":]");
        let length = name.chars().count() + ":".len() + ":]".len();
        for _ in 0..length {
            self.rest.next();
        }
        Ok(())
    }

    /// One member of a class, or a range.
    fn range(&mut self, first: char) -> Result<(), String> {
        let low = self.member(first)?;
        push_member(&mut self.out, low);
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('-') || matches!(ahead.peek(), None | Some(']')) {
            return Ok(());
        }
        self.rest = ahead;
        let Some(next) = self.rest.next() else {
            return Err("missing ]".to_owned());
        };
        let high = self.member(next)?;
        if high < low {
            return Err(format!("invalid character class range: {low}-{high}"));
        }
        self.out.push('-');
        push_member(&mut self.out, high);
        Ok(())
    }

    fn member(&mut self, character: char) -> Result<char, String> {
        if character != '\\' {
            return Ok(character);
        }
        match self.rest.next() {
            Some(escaped) => self.escaped_literal(escaped),
            None => Err(r"trailing \ at end".to_owned()),
        }
    }
}

/// The members of RE2's `\d`, `\s`, `\w`.
fn perl_class(letter: char) -> &'static str {
    match letter {
        'd' => "0-9",
        's' => r"\t\n\x0C\r ",
        _ => "0-9A-Za-z_",
    }
}

fn push_member(out: &mut String, member: char) {
    if matches!(member, '[' | ']' | '^' | '-' | '&' | '~' | '\\') {
        out.push('\\');
    }
    out.push(member);
}

#[cfg(test)]
mod tests {
    use super::{compile_whole_regex, translate};

    fn matches(pattern: &str, text: &str) -> bool {
        compile_whole_regex(pattern)
            .unwrap_or_else(|error| panic!("{pattern}: {error}"))
            .is_match(text.as_bytes())
    }

    #[test]
    fn perl_classes_know_ascii_only() {
        assert!(matches(r"\d+\w+\s", "12ab_ "));
        for (pattern, text) in [
            (r"\d", "٣"),
            (r"\w", "é"),
            (r"\s", "\u{a0}"),
            (r"\s", "\u{b}"),
        ] {
            assert!(!matches(pattern, text), "{pattern} matched {text}");
        }
        assert!(matches(r"\D\W\S", "٣éé"));
        assert!(matches(r"[\d.]+[\D]", "1.2x"));
    }

    #[test]
    fn classes_have_no_set_operators() {
        assert!(matches(r"[a&&b]+", "a&b"));
        assert!(matches(r"[[a]+", "[a["));
        assert!(matches(r"[a-c~~-]+", "b~-"));
        assert!(matches(r"[]a]+", "]a"));
        assert!(matches(r"[^]a]", "b"));
        assert!(matches(r"[[:alpha:]_-]+", "ab_-"));
        assert!(matches(r"[[:^digit:]]", "a"));
        assert!(matches(r"[\]\-\\]+", r"]-\"));
        assert!(matches(r"[\p{Greek}\pN]+", "α1"));
    }

    #[test]
    fn escapes_that_only_re2_has() {
        assert!(matches(r"\Qa.b*\Ec", "a.b*c"));
        assert!(matches(r"\101\x42\x{43}", "ABC"));
        assert!(matches(r"a\<\/\ ", "a</ "));
        assert!(matches(r"\p{^Greek}", "a"));
        assert!(matches(r"a{x", "a{x"));
        assert!(matches(r"a{,2}", "a{,2}"));
    }

    #[test]
    fn what_re2_refuses_is_refused_in_its_words() {
        for (pattern, reason) in [
            (r"a**", "bad repetition operator: *"),
            (r"a{2}{3}", "bad repetition operator: {3}"),
            (r"a{1001}", "invalid repetition size: {1001}"),
            (r"(?x)a b", "invalid perl operator: (?x"),
            (r"(?=a)", "invalid perl operator: (?="),
            (r"(?<=a)", "invalid perl operator: (?<"),
            (r"(a)\1", r"invalid escape sequence: \1"),
            (r"\y", r"invalid escape sequence: \y"),
            (r"[b-a]", "invalid character class range: b-a"),
            (r"[[:foo:]]", "invalid character class range: [:foo:]"),
            ("[a", "missing ]"),
            (r"a\", r"trailing \ at end"),
        ] {
            assert_eq!(translate(pattern).unwrap_err(), reason, "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused() {
        let error = compile_whole_regex(r"(\pL{1000}){1000}").unwrap_err();
        assert!(error.contains("size limit"), "{error}");
    }

    #[test]
    fn ordinary_patterns_stay_as_they_are() {
        for pattern in [
            r"/api/v[0-9]+/.*",
            r"(?i)abc|def",
            r"(?P<name>x)+?",
            r"^a.b$",
            r"a{2,3}?",
            r"\A\.\z",
        ] {
            assert_eq!(translate(pattern).unwrap(), pattern);
        }
    }
}

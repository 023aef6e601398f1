//! The API key a client signs its requests with.

use std::fmt;

use http::HeaderValue;

use crate::Error;

/// The most bytes in a key; Muster's own have under 100.
const KEY_MAX: usize = 1024;

/// An API key, `mk_…`. Its text is in no `Debug` output and no error.
#[derive(Clone)]
pub struct Key(HeaderValue);

impl Key {
    /// Takes a key as it was handed out; white space around it is left away.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that can't be a key.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let rule = match text.len() {
            0 => Some("it is empty"),
            1..=KEY_MAX if text.bytes().all(|b| b.is_ascii_graphic()) => None,
            1..=KEY_MAX => Some("it has characters that no key has"),
            _ => Some("it is too long"),
        };
        let header = HeaderValue::try_from(format!("Bearer {text}"));
        match (rule, header) {
            (None, Ok(mut header)) => {
                header.set_sensitive(true);
                Ok(Key(header))
            }
            (rule, _) => Err(Error::invalid("the key", rule.unwrap_or("it has characters that no key has"))),
        }
    }

    /// The value of the `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_trimmed_checked_and_never_shown() {
        let key = Key::new(" mk_1_secret\n").unwrap();
        assert_eq!(key.header(), "Bearer mk_1_secret");
        assert!(!format!("{key:?} {:?}", key.header()).contains("secret"));
        for bad in ["", "  ", "mk 1", "mk_é", "mk_\u{7}", &"x".repeat(KEY_MAX + 1)] {
            let error = Key::new(bad).unwrap_err();
            assert!(bad.trim().is_empty() || !format!("{error} {error:?}").contains(bad), "{error:?}");
        }
    }
}

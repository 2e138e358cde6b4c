//! Parses `--provision[=LIST]`.

use std::fmt;
use std::str::FromStr;

/// What to fetch, and what else to do with the provisioned sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Any working emulator; if there is none, the newest one in the machine's own package sources.
    Any,
    /// These sets, from Debian's archive.
    These {
        /// The wanted sets, in any order.
        wanted: Vec<Wanted>,
        /// Whether to delete other sets and the downloaded packages.
        prune: bool,
    },
    /// Fetch nothing: show what exists and what is offered.
    List,
}

/// One or more sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The newest version that begins with this one: `7.2`, `10.0.2`.
    Version(String),
    /// The version in this suite: `trixie-backports`.
    Suite(String),
    /// The newest version of all suites.
    Newest,
    /// Each version of all suites.
    All,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(name) | Self::Suite(name) => f.write_str(name),
            Self::Newest => f.write_str("newest"),
            Self::All => f.write_str("all"),
        }
    }
}

/// An invalid list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A word is neither a version nor the name of a suite.
    #[error(
        "`{0}` is neither a version (7.2, 10.0.2), nor a suite of Debian (trixie-backports), \
         nor `newest`, `all`, `list` or `prune`"
    )]
    Word(String),
    /// `list` is combined with something to do.
    #[error("`list` shows what there is and stands alone")]
    ListAndMore,
}

impl FromStr for Request {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let words: Vec<&str> = text.split(',').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Ok(Self::Any);
        }
        if words == ["list"] {
            return Ok(Self::List);
        }
        let (mut wanted, mut prune) = (Vec::new(), false);
        for word in words {
            match word {
                "list" => return Err(RequestError::ListAndMore),
                "prune" => prune = true,
                "newest" => wanted.push(Wanted::Newest),
                "all" => wanted.push(Wanted::All),
                _ if is_version(word) => wanted.push(Wanted::Version(word.to_owned())),
                _ if is_suite(word) => wanted.push(Wanted::Suite(word.to_owned())),
                _ => return Err(RequestError::Word(word.to_owned())),
            }
        }
        Ok(Self::These { wanted, prune })
    }
}

fn is_version(word: &str) -> bool {
    word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether it is a suite name as Debian forms them. It becomes part of a sources file, so nothing
/// else is allowed.
fn is_suite(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(wanted: &[Wanted], prune: bool) -> Result<Request, RequestError> {
        Ok(Request::These {
            wanted: wanted.to_vec(),
            prune,
        })
    }

    #[test]
    fn a_list_names_versions_suites_and_words_for_several() {
        assert_eq!("".parse(), Ok(Request::Any));
        assert_eq!("list".parse(), Ok(Request::List));
        let version = |text: &str| Wanted::Version(text.to_owned());
        assert_eq!(
            "7.2,10.0.2,newest".parse(),
            these(&[version("7.2"), version("10.0.2"), Wanted::Newest], false)
        );
        let suite = Wanted::Suite("trixie-backports".to_owned());
        assert_eq!(
            "trixie-backports,all".parse(),
            these(&[suite, Wanted::All], false)
        );
        assert_eq!("prune".parse(), these(&[], true));
        assert_eq!("11,prune".parse(), these(&[version("11")], true));
    }

    #[test]
    fn what_is_neither_a_version_nor_a_suite_is_refused() {
        for bad in ["7.", "7.2-rc1", "Sid", "a b", "sid\nTrusted: yes", "../x"] {
            let refused = bad.parse::<Request>().unwrap_err();
            let expected = RequestError::Word(bad.to_owned());

            assert_eq!(refused, expected);
        }
        let both = "list,all".parse::<Request>();
        assert_eq!(both, Err(RequestError::ListAndMore));
    }
}

//! What stands in the parentheses of `#[case(…)]`.

use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, Token};

/// The settings of one attribute, in the order they were written.
pub(crate) struct Settings {
    /// Everything but `rows`.
    pub(crate) settings: Vec<Setting>,
    /// The table of a family.
    pub(crate) rows: Option<Expr>,
}

/// `key = value`, or `key` alone.
pub(crate) struct Setting {
    pub(crate) key: Ident,
    pub(crate) value: Option<Expr>,
}

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut rows = None;
        for setting in Punctuated::<Setting, Token![,]>::parse_terminated(input)? {
            let repeated = settings.iter().any(|other| other.key == setting.key);
            if repeated || (setting.key == "rows" && rows.is_some()) {
                return Err(syn::Error::new(
                    setting.key.span(),
                    format!("`{}` is given twice", setting.key),
                ));
            }
            if setting.key == "rows" {
                let span = setting.key.span();
                rows = Some(setting.value.ok_or_else(|| {
                    syn::Error::new(span, "`rows` needs a table: `rows = TABLE`")
                })?);
            } else {
                settings.push(setting);
            }
        }
        Ok(Self { settings, rows })
    }
}

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key = input.parse()?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Some(input.parse()?)
        } else {
            None
        };
        Ok(Self { key, value })
    }
}

//! `key = value, …`: the declarations of a module, a case or a row.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, Token};

/// `key = value`, or `key` alone.
pub(crate) struct Setting {
    pub(crate) key: Ident,
    pub(crate) value: Option<Expr>,
}

/// The settings of one place, in source order, without duplicates.
#[derive(Default)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    pub(crate) fn push(&mut self, setting: Setting) -> syn::Result<()> {
        if self.0.iter().any(|other| other.key == setting.key) {
            return Err(syn::Error::new(
                setting.key.span(),
                format!("`{}` is given twice", setting.key),
            ));
        }
        self.0.push(setting);
        Ok(())
    }

    /// Removes and returns a setting that must have a value.
    pub(crate) fn take(&mut self, key: &str, usage: &str) -> syn::Result<Option<Expr>> {
        let Some(at) = self.0.iter().position(|setting| setting.key == key) else {
            return Ok(None);
        };
        let Setting { key, value } = self.0.remove(at);
        match value {
            Some(value) => Ok(Some(value)),
            None => Err(syn::Error::new(
                key.span(),
                format!("`{key}` needs a value: `{usage}`"),
            )),
        }
    }

    /// `.key(value)` for each setting.
    pub(crate) fn calls(&self) -> Vec<TokenStream> {
        self.0.iter().map(call).collect()
    }
}

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut settings = Self::default();
        for setting in Punctuated::<Setting, Token![,]>::parse_terminated(input)? {
            settings.push(setting)?;
        }
        Ok(settings)
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

/// `.key(value)`: a key without a value is `true`, an array literal becomes a `'static` slice, and
/// a single upstream id becomes a list.
fn call(setting: &Setting) -> TokenStream {
    let key = &setting.key;
    match &setting.value {
        None => quote! { .#key(true) },
        Some(Expr::Array(array)) => quote! { .#key(const { &#array }) },
        Some(Expr::Lit(literal)) if key == "upstream" => quote! { .#key(const { &[#literal] }) },
        Some(value) => quote! { .#key(#value) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_become_static_slices_and_bare_keys_true() {
        let settings: Settings =
            syn::parse_quote!(exclusive, groups = [AUTO], upstream = "163", host = Any);
        let calls: Vec<String> = settings.calls().iter().map(ToString::to_string).collect();
        assert_eq!(
            calls,
            [
                ". exclusive (true)",
                ". groups (const { & [AUTO] })",
                ". upstream (const { & [\"163\"] })",
                ". host (Any)"
            ]
        );
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = syn::parse2::<Settings>(quote!(exclusive, exclusive)).err();
        assert_eq!(error.unwrap().to_string(), "`exclusive` is given twice");
    }
}

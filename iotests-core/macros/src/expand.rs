//! What `#[case(…)]` puts beside the function.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Expr, ExprLit, ItemFn, Lit, Meta};

use crate::parse::{Setting, Settings};

/// The function as it was, and a static that registers it.
pub(crate) fn case(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let settings: Settings = syn::parse2(attribute)?;
    let function: ItemFn = syn::parse2(item)?;
    if function.sig.asyncness.is_none() {
        return Err(syn::Error::new(
            function.sig.ident.span(),
            "a case is an `async fn`",
        ));
    }
    let expected = if settings.rows.is_some() { 2 } else { 1 };
    if function.sig.inputs.len() != expected {
        let wanted = match expected {
            1 => "a case takes `&mut Test` (and a row only with `rows = TABLE`)",
            _ => "a case with `rows` takes `&mut Test` and a reference to the row's value",
        };
        return Err(syn::Error::new(function.sig.ident.span(), wanted));
    }
    let description = description(&function.attrs).ok_or_else(|| {
        syn::Error::new(
            function.sig.ident.span(),
            "a case needs a doc comment: its first line is the description in the list and in reports",
        )
    })?;

    let name = &function.sig.ident;
    let name_text = name.to_string();
    let registration = format_ident!("__CASE_{}", name_text.to_uppercase());
    let meta = settings.settings.iter().map(call);
    let body = match &settings.rows {
        None => quote! { ::iotests_core::case::Body::Single(|t| ::std::boxed::Box::pin(#name(t))) },
        Some(rows) => quote! {
            ::iotests_core::case::Body::Rows {
                rows: || ::iotests_core::case::row_metas(#rows),
                run: |t, index| ::std::boxed::Box::pin(#name(t, #rows[index].value())),
            }
        },
    };
    Ok(quote! {
        #function

        #[::iotests_core::case::linkme::distributed_slice(::iotests_core::case::CASES)]
        #[linkme(crate = ::iotests_core::case::linkme)]
        static #registration: ::iotests_core::case::Case = ::iotests_core::case::Case {
            module: ::std::module_path!(),
            function: #name_text,
            description: #description,
            file: ::std::file!(),
            line: ::std::line!(),
            meta: {
                #[allow(unused_imports)]
                use ::iotests_core::case::names::*;
                ::iotests_core::case::Meta::new()#(#meta)*
            },
            body: #body,
        };
    })
}

/// `.key(value)`; array literals become `'static` slices.
fn call(setting: &Setting) -> TokenStream {
    let key = &setting.key;
    match &setting.value {
        None => quote! { .#key() },
        Some(Expr::Array(array)) => quote! { .#key(const { &#array }) },
        // Most cases cover one upstream test: `upstream = "163"` is short for `upstream = ["163"]`.
        Some(Expr::Lit(literal)) if key == "upstream" => quote! { .#key(const { &[#literal] }) },
        Some(value) => quote! { .#key(#value) },
    }
}

/// The first paragraph of the doc comment, on one line.
fn description(attributes: &[Attribute]) -> Option<String> {
    let mut words = Vec::new();
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        if !pair.path.is_ident("doc") {
            continue;
        }
        let Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) = &pair.value
        else {
            continue;
        };
        let line = text.value();
        if line.trim().is_empty() && !words.is_empty() {
            break;
        }
        words.extend(line.split_whitespace().map(str::to_owned));
    }
    let text = words.join(" ");
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(attribute: TokenStream, item: TokenStream) -> String {
        case(attribute, item).map_or_else(|error| error.to_string(), |_| "no error".to_owned())
    }

    #[test]
    fn a_case_without_a_doc_comment_is_refused() {
        let error = error_of(
            quote!(),
            quote!(
                async fn a(t: &mut Test) -> CaseResult {
                    Ok(())
                }
            ),
        );
        assert!(error.contains("needs a doc comment"), "{error}");
    }

    #[test]
    fn the_description_is_the_first_paragraph_on_one_line() {
        let function: ItemFn = syn::parse_quote! {
            /// Shrinking an image
            /// keeps its data.
            ///
            /// More words.
            async fn a() {}
        };
        assert_eq!(
            description(&function.attrs).as_deref(),
            Some("Shrinking an image keeps its data.")
        );
    }

    #[test]
    fn a_function_that_is_not_async_is_refused() {
        let error = error_of(
            quote!(),
            quote!(
                #[doc = "x"]
                fn a(t: &mut Test) -> CaseResult {
                    Ok(())
                }
            ),
        );
        assert_eq!(error, "a case is an `async fn`");
    }

    #[test]
    fn a_row_argument_without_rows_is_refused_and_the_other_way_round() {
        let with_row = quote!(
            #[doc = "x"]
            async fn a(t: &mut Test, row: &u8) -> CaseResult {
                Ok(())
            }
        );
        assert!(error_of(quote!(), with_row).contains("only with `rows"));
        let without = quote!(
            #[doc = "x"]
            async fn a(t: &mut Test) -> CaseResult {
                Ok(())
            }
        );
        assert!(error_of(quote!(rows = TABLE), without).contains("reference to the row"));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let item = quote!(
            #[doc = "x"]
            async fn a(t: &mut Test) -> CaseResult {
                Ok(())
            }
        );
        assert_eq!(
            error_of(quote!(generic, generic), item),
            "`generic` is given twice"
        );
    }

    #[test]
    fn the_function_is_emitted_unchanged() {
        let item = quote!(
            #[doc = "x"]
            async fn a(t: &mut Test) -> CaseResult {
                t.step("one");
                Ok(())
            }
        );
        let expanded =
            case(quote!(upstream = "163"), item.clone()).map(|tokens| tokens.to_string());
        assert!(expanded.is_ok_and(|text| text.starts_with(&item.to_string())));
    }

    #[test]
    fn arrays_become_static_slices_and_bare_keys_calls() {
        let settings: Settings = syn::parse_quote!(generic, groups = [AUTO], upstream = "163");
        let calls: Vec<String> = settings
            .settings
            .iter()
            .map(|setting| call(setting).to_string())
            .collect();
        assert_eq!(
            calls,
            [
                ". generic ()",
                ". groups (const { & [AUTO] })",
                ". upstream (const { & [\"163\"] })"
            ]
        );
    }
}

//! The expansion of `#[case(…)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Expr, ExprLit, FnArg, ItemFn, Lit, Meta, Pat};

use crate::settings::Settings;

/// The unchanged function, and a static that registers it.
pub(crate) fn case(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut settings: Settings = syn::parse2(attribute)?;
    let tables = match settings.take("rows", "rows = TABLE")? {
        Some(Expr::Tuple(tables)) => tables.elems.into_iter().collect(),
        Some(table) => vec![table],
        None => Vec::new(),
    };
    let excluded = match settings.take("excluded", "excluded = [exclude(&[…], \"why\")]")? {
        Some(list) => quote! { const { &#list } },
        None => quote! { &[] },
    };
    let function: ItemFn = syn::parse2(item)?;
    if function.sig.asyncness.is_none() {
        return Err(syn::Error::new(
            function.sig.ident.span(),
            "a case is an `async fn`",
        ));
    }
    if function.sig.inputs.len() != 1 + tables.len() {
        let wanted = match tables.len() {
            0 => "a case takes `&mut Test` (and a row only with `rows = TABLE`)".to_owned(),
            1 => {
                "a case with `rows` takes `&mut Test` and a reference to the row's value".to_owned()
            }
            n => format!("this case takes `&mut Test` and references to the values of {n} rows"),
        };
        return Err(syn::Error::new(function.sig.ident.span(), wanted));
    }
    let description = description(&function.attrs).ok_or_else(|| {
        syn::Error::new(
            function.sig.ident.span(),
            "a case needs a doc comment: its first paragraph is the description in the list and in reports",
        )
    })?;

    let name = &function.sig.ident;
    let name_text = name.to_string();
    let registration = format_ident!("__CASE_{}", name_text.to_uppercase());
    let calls = settings.calls();
    let body = if tables.is_empty() {
        quote! { ::iotests_core::case::Body::Single(|t| ::std::boxed::Box::pin(#name(t))) }
    } else {
        let parameters = function.sig.inputs.iter().skip(1).map(parameter);
        let index = 0..tables.len();
        quote! {
            ::iotests_core::case::Body::Rows {
                tables: || ::std::vec![#(::iotests_core::case::Table::new(#parameters, #tables)),*],
                run: |t, rows| ::std::boxed::Box::pin(#name(t, #(#tables[rows[#index]].value()),*)),
            }
        }
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
            declaration: {
                #[allow(unused_imports)]
                use ::iotests_core::case::names::*;
                ::iotests_core::case::Declaration::new()#(#calls)*
            },
            excluded: {
                #[allow(unused_imports)]
                use ::iotests_core::case::names::*;
                #excluded
            },
            body: #body,
        };
    })
}

/// The name of a parameter, by which a template of upstream ids refers to its row; empty for a
/// pattern.
fn parameter(input: &FnArg) -> String {
    match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(name) => name.ident.to_string(),
            _ => String::new(),
        },
        FnArg::Receiver(_) => String::new(),
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
    fn two_tables_give_two_arguments_and_their_names_to_templates() {
        let item = quote!(
            #[doc = "x"]
            async fn a(t: &mut Test, size: &u64, (b, c): &(u8, u8)) -> CaseResult {
                Ok(())
            }
        );
        let expanded = case(quote!(rows = (SIZES, PAIRS)), item.clone()).unwrap();
        let text = expanded.to_string();
        assert!(text.contains("Table :: new (\"size\" , SIZES)"), "{text}");
        assert!(text.contains("Table :: new (\"\" , PAIRS)"), "{text}");
        assert!(text.contains("PAIRS [rows [1usize]]"), "{text}");
        assert!(error_of(quote!(rows = SIZES), item).contains("reference to the row"));
    }
}

//! The attribute `#[case(…)]` of iotests-core. It registers a function; it never rewrites one.
//!
//! See `iotests_core::case` for what can be said in the attribute.

mod expand;
mod parse;

use proc_macro::TokenStream;

/// Registers an `async fn(&mut Test) -> CaseResult` as a case.
///
/// Every `key = value` becomes a call of the method `key` of `iotests_core::case::Meta`, a bare `key` a call without argument; an array
/// literal becomes a `&'static` slice. The names of `iotests_core::case::names` (formats, groups, requirements, `secs`, `MIB`…) are in scope
/// inside the attribute. `rows = TABLE` is special: the function then takes `(&mut Test, &T)` and every `Row<T>` of the table becomes an
/// instance of its own.
///
/// The first paragraph of the function's doc comment is the description of the case; a case without one does not compile.
#[proc_macro_attribute]
pub fn case(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand::case(attribute.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

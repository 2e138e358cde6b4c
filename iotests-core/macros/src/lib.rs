//! The macros that declare the cases of iotests-core. They register functions, and never rewrite
//! them.
//!
//! See `iotests_core::case` for the declarations.

mod case;
mod defaults;
mod rows;
mod settings;

use proc_macro::TokenStream;

/// Registers an `async fn(&mut Test) -> CaseResult` as a case.
///
/// Every `key = value` sets a key of `iotests_core::case::Declaration`; a key without a value is
/// `true`, and an array literal becomes a `&'static` slice. The names of
/// `iotests_core::case::names` (formats, groups, requirements, `secs`, `MIB`…) are in scope inside
/// the attribute. Two keys exist only here:
/// - `rows = TABLE`, or `rows = (TABLE, TABLE)`: the function also takes a reference to the value
///   of a row of each table, and each combination is a separate instance;
/// - `excluded = [exclude(&["row", "row"], "why")]`: excluded combinations.
///
/// The first paragraph of the function's doc comment is the description of the case; a case without
/// one does not compile.
#[proc_macro_attribute]
pub fn case(attribute: TokenStream, item: TokenStream) -> TokenStream {
    case::case(attribute.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Declares keys for all cases of a module and its submodules: `defaults! { formats = [QCOW2],
/// groups = [RW] }`.
///
/// The keys and the names in scope are those of `#[case(…)]`. Lists accumulate; single values are
/// replaced by those of an inner module, a case or a row.
#[proc_macro]
pub fn defaults(input: TokenStream) -> TokenStream {
    defaults::defaults(input.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Declares a table of rows for `#[case(rows = TABLE)]`, a constant slice of
/// `iotests_core::case::Row`.
///
/// ```text
/// rows! {
///     /// Requests, and what qemu-io does in each.
///     REQUESTS: Request { command, io, size: MIB };
///     "read" => CommandType::READ, "read -P 0 512k 1M";
///     "map" => CommandType::BLOCK_STATUS, "map", needs = [Driver("qcow2")];
/// }
/// ```
///
/// The head names the type of the values. With fields in braces, each row lists their values in
/// that order, except those with a value in the head; without fields, a row has a single value.
/// After the values come the keys that the row declares, the same as in `#[case(…)]`.
#[proc_macro]
pub fn rows(input: TokenStream) -> TokenStream {
    rows::rows(input.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

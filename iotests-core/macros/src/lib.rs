//! The macros with which iotests-core's cases are declared. They register functions; they never rewrite one.
//!
//! See `iotests_core::case` for what can be declared.

mod case;
mod defaults;
mod rows;
mod settings;

use proc_macro::TokenStream;

/// Registers an `async fn(&mut Test) -> CaseResult` as a case.
///
/// Every `key = value` declares a key of `iotests_core::case::Declaration`; a key alone is `true`, and an array literal becomes a
/// `&'static` slice. The names of `iotests_core::case::names` (formats, groups, requirements, `secs`, `MIB`…) are in scope inside the
/// attribute. Two keys are those of a case alone:
/// - `rows = TABLE`, or `rows = (TABLE, TABLE)`: the function takes a reference to the value of a row of each table as well, and each
///   combination is an instance of its own;
/// - `excluded = [exclude(&["row", "row"], "why")]`: combinations that do not exist.
///
/// The first paragraph of the function's doc comment is the description of the case; a case without one does not compile.
#[proc_macro_attribute]
pub fn case(attribute: TokenStream, item: TokenStream) -> TokenStream {
    case::case(attribute.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Declares keys for all cases of a module and of those below it: `defaults! { formats = [QCOW2], groups = [RW] }`.
///
/// The keys and the names in scope are those of `#[case(…)]`, and so is what a list and a value come to: lists add up, single values of a
/// module further in, a case or a row replace.
#[proc_macro]
pub fn defaults(input: TokenStream) -> TokenStream {
    defaults::defaults(input.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Declares a table of rows for `#[case(rows = TABLE)]`, a constant slice of `iotests_core::case::Row`.
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
/// The head names the type of the values. With fields in braces, each row gives them in that order, but those that have their value in the
/// head; without, a row has a single value. Behind the values come the keys that the row declares, the same as in `#[case(…)]`.
#[proc_macro]
pub fn rows(input: TokenStream) -> TokenStream {
    rows::rows(input.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

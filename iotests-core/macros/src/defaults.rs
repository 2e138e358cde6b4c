//! The expansion of `defaults! { … }`.

use proc_macro2::TokenStream;
use quote::quote;

use crate::settings::Settings;

/// A static that registers the module's declarations.
pub(crate) fn defaults(input: TokenStream) -> syn::Result<TokenStream> {
    let calls = syn::parse2::<Settings>(input)?.calls();
    Ok(quote! {
        const _: () = {
            #[::iotests_core::case::linkme::distributed_slice(::iotests_core::case::DEFAULTS)]
            #[linkme(crate = ::iotests_core::case::linkme)]
            static DEFAULTS: ::iotests_core::case::ModuleDefaults = ::iotests_core::case::ModuleDefaults {
                module: ::std::module_path!(),
                file: ::std::file!(),
                line: ::std::line!(),
                declaration: {
                    #[allow(unused_imports)]
                    use ::iotests_core::case::names::*;
                    ::iotests_core::case::Declaration::new()#(#calls)*
                },
            };
        };
    })
}

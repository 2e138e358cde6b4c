//! The expansion of `rows! { … }`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, Ident, LitStr, Token, Type, Visibility, braced};

use crate::settings::{Setting, Settings};

/// A table: its head, and its rows.
struct Table {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    of: Type,
    /// The fields of the type, if rows list them individually.
    fields: Option<Vec<Field>>,
    rows: Vec<Row>,
}

/// A field of a row's type.
struct Field {
    name: Ident,
    /// The value in every row; `None` if each row has its own.
    value: Option<Expr>,
}

/// `"name" => value, …, key = value, …;`
struct Row {
    name: LitStr,
    cells: Vec<Expr>,
    settings: Settings,
}

impl Parse for Table {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let name = input.parse()?;
        input.parse::<Token![:]>()?;
        let of = input.parse()?;
        let fields = if input.peek(syn::token::Brace) {
            let content;
            braced!(content in input);
            let fields = content.parse_terminated(Field::parse, Token![,])?;
            Some(fields.into_iter().collect())
        } else {
            None
        };
        input.parse::<Token![;]>()?;
        let mut rows = Vec::new();
        while !input.is_empty() {
            rows.push(input.parse()?);
        }
        Ok(Self {
            attributes,
            visibility,
            name,
            of,
            fields,
            rows,
        })
    }
}

impl Parse for Field {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.parse()?;
        let value = if input.peek(Token![:]) {
            input.parse::<Token![:]>()?;
            Some(input.parse()?)
        } else {
            None
        };
        Ok(Self { name, value })
    }
}

impl Parse for Row {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![=>]>()?;
        let (mut cells, mut settings) = (Vec::new(), Settings::default());
        while !input.peek(Token![;]) {
            let is_setting = input.peek(Ident::peek_any)
                && input.peek2(Token![=])
                && !input.peek2(Token![==])
                && !input.peek2(Token![=>]);
            if is_setting {
                settings.push(input.parse::<Setting>()?)?;
            } else {
                cells.push(input.parse()?);
            }
            if !input.peek(Token![;]) {
                input.parse::<Token![,]>()?;
            }
        }
        input.parse::<Token![;]>()?;
        Ok(Self {
            name,
            cells,
            settings,
        })
    }
}

impl Row {
    /// The value of the row: its only cell, or the fields of the type.
    fn value(&self, of: &Type, fields: Option<&[Field]>) -> syn::Result<TokenStream> {
        let wrong = |wanted: usize| {
            let have = self.cells.len();
            let text = format!("this row has {have} values; its table wants {wanted}");
            Err(syn::Error::new(self.name.span(), text))
        };
        let Some(fields) = fields else {
            let [value] = &self.cells[..] else {
                return wrong(1);
            };
            return Ok(quote! { #value });
        };
        let wanted = fields.iter().filter(|field| field.value.is_none()).count();
        if wanted != self.cells.len() {
            return wrong(wanted);
        }
        let mut cells = self.cells.iter();
        let names = fields.iter().map(|field| &field.name);
        let values = fields.iter().map(|field| field.value.as_ref().or_else(|| cells.next()));
        Ok(quote! { #of { #(#names: #values),* } })
    }
}

/// A constant slice of rows.
pub(crate) fn rows(input: TokenStream) -> syn::Result<TokenStream> {
    let Table {
        attributes,
        visibility,
        name,
        of,
        fields,
        rows,
    } = syn::parse2(input)?;
    let row = |row: &Row| {
        let (name, value) = (&row.name, row.value(&of, fields.as_deref())?);
        let calls = row.settings.calls();
        // The names for declarations are not in scope in the values, where they could shadow
        // others.
        Ok(quote! {
            {
                const ROW: ::iotests_core::case::Row<#of> =
                    ::iotests_core::case::Row::new(#name, #value);
                #[allow(unused_imports)]
                use ::iotests_core::case::names::*;
                ROW #(#calls)*
            }
        })
    };
    let rows: Vec<TokenStream> = rows.iter().map(row).collect::<syn::Result<_>>()?;
    Ok(quote! {
        #(#attributes)*
        #visibility const #name: &[::iotests_core::case::Row<#of>] = &[#(#rows),*];
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(input: TokenStream) -> String {
        rows(input).map_or_else(|error| error.to_string(), |tokens| tokens.to_string())
    }

    #[test]
    fn the_fields_of_a_row_are_those_of_the_head_in_its_order() {
        let text = expanded(quote! {
            TABLE: Pair { a, b: 7, c };
            "one" => 1, || 2, needs = [Zstd];
        });
        assert!(
            text.contains("\"one\" , Pair { a : 1 , b : 7 , c : | | 2 }"),
            "{text}"
        );
        assert!(text.contains(". needs (const { & [Zstd] })"), "{text}");
    }

    #[test]
    fn without_fields_a_row_has_one_value() {
        let text = expanded(quote!(pub(super) TABLE: (u8, bool); "one" => (1, true);));
        assert!(text.starts_with("pub (super) const TABLE"), "{text}");
        assert!(text.contains("\"one\" , (1 , true)"), "{text}");
    }

    #[test]
    fn a_row_with_too_many_or_too_few_values_is_refused() {
        let wrong = expanded(quote!(TABLE: Pair { a, b }; "one" => 1;));
        assert_eq!(wrong, "this row has 1 values; its table wants 2");
        let wrong = expanded(quote!(TABLE: u8; "one" => 1, 2;));
        assert_eq!(wrong, "this row has 2 values; its table wants 1");
    }
}

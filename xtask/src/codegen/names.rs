//! Converts QAPI names to Rust names.

/// `blockdev-mirror`, `BLOCK_JOB_COMPLETED` or `null-co` as the name of a type or variant.
pub(crate) fn camel(name: &str) -> String {
    let shouts = !name.chars().any(|c| c.is_ascii_lowercase());
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut camel = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        // Digits on both sides of a separator would run together.
        if camel.ends_with(|c: char| c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_digit())
        {
            camel.push('_');
        }
        let mut letters = word.chars();
        camel.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        let rest = letters.as_str();
        camel.push_str(&if shouts {
            rest.to_ascii_lowercase()
        } else {
            rest.to_owned()
        });
    }
    if camel.starts_with(|c: char| c.is_ascii_digit()) {
        camel.insert(0, 'N');
    }
    if matches!(camel.as_str(), "Self" | "Other" | "") {
        camel.push_str("Value");
    }
    camel
}

/// `node-name` as the name of a field and method.
pub(crate) fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            snake.push(c.to_ascii_lowercase());
        } else {
            snake.push('_');
        }
    }
    if snake.starts_with(|c: char| c.is_ascii_digit()) {
        snake.insert(0, 'n');
    }
    match snake.as_str() {
        // Its established name in this crate.
        "type" => "kind".to_owned(),
        "extra" | "set" | "new" => format!("{snake}_"),
        "self" | "super" | "crate" => format!("{snake}_"),
        word if KEYWORDS.contains(&word) => format!("r#{word}"),
        _ => snake,
    }
}

const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let",
    "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return",
    "static", "struct", "trait", "true", "try", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

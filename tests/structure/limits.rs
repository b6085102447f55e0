//! Limits: what docs/protocol.md says of them in tables, and the constants in the sources.

use std::path::Path;

use crate::protocol;

/// The first row of each table of limits.
const HEADER: &str = "| limit | value | constant |";

/// A row of a table: what a limit is, and the constant that holds it.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) value: u64,
    pub(crate) constant: String,
    pub(crate) file: String,
}

/// Returns all limits in the document's tables.
pub(crate) fn documented(document: &str) -> Vec<Limit> {
    let tables = document.split(HEADER).skip(1);
    let rows = tables.flat_map(|table| {
        table.lines().skip(2).map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
    });
    rows.map(|row| limit(row).unwrap_or_else(|| panic!("this row names no limit: {row}"))).collect()
}

fn limit(row: &str) -> Option<Limit> {
    let mut cells = row.rsplit(" | ");
    let (constant, file) = cells.next()?.split_once(" in ")?;
    let value = amount(cells.next()?)?;
    Some(Limit { value, constant: constant.trim_matches('`').to_owned(), file: file.to_owned() })
}

/// Reads `1,024`, `64 KiB`, or `2.5 s`: bytes and milliseconds are the units.
fn amount(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let thousandths = match unit {
        "" | "ms" => 1000,
        "KiB" => 1000 << 10,
        "MiB" => 1000 << 20,
        "s" => 1_000_000,
        _ => return None,
    };
    let number = number.replace(',', "");
    let (whole, part) = number.split_once('.').unwrap_or((&number, ""));
    let part: u64 = format!("{part:0<3}").parse().ok()?;
    Some((whole.parse::<u64>().ok()? * 1000 + part) * thousandths / 1_000_000)
}

/// Returns the value of a constant in a source, in the same units.
pub(crate) fn constant(root: &Path, file: &str, name: &str) -> Option<u64> {
    let source = protocol::read(root, file);
    match protocol::constant(&source, name) {
        Some(expression) => evaluate(root, file, &expression),
        None => constant(root, &imported_from(&source, name)?, name),
    }
}

/// Returns the file from which a source imports a constant of another crate by a `use` of its own.
fn imported_from(source: &str, name: &str) -> Option<String> {
    let path = source.lines().find_map(|line| {
        line.strip_prefix("use ")?.strip_suffix(";")?.strip_suffix(name)?.strip_suffix("::")
    });
    let (package, module) = path?.split_once("::")?;
    Some(format!("{package}/src/{}.rs", module.replace("::", "/")))
}

/// Evaluates sums, products and shifts of numbers, durations and constants.
fn evaluate(root: &Path, file: &str, expression: &str) -> Option<u64> {
    let value = |part: &str| evaluate(root, file, part.trim());
    let milliseconds = |name: &str, factor: u64| {
        let number = expression.strip_prefix(name)?.strip_suffix(')')?;
        Some(value(number)? * factor)
    };
    let (sum, product) = (expression.split_once(" + "), expression.split_once(" * "));
    if let Some((a, b)) = sum {
        Some(value(a)? + value(b)?)
    } else if let Some((a, b)) = product {
        Some(value(a)? * value(b)?)
    } else if let Some((a, b)) = expression.split_once(" << ") {
        Some(value(a)? << value(b)?)
    } else if expression.starts_with(|letter: char| letter.is_ascii_digit()) {
        expression.replace('_', "").parse().ok()
    } else if expression.starts_with("Duration::") {
        milliseconds("Duration::from_secs(", 1000)
            .or_else(|| milliseconds("Duration::from_millis(", 1))
    } else {
        constant(root, file, expression)
    }
}

/// Returns the names of all constants in a source that hold a number or a time.
pub(crate) fn constants(source: &str) -> Vec<String> {
    let declared = source.lines().filter_map(|line| {
        let (name, rest) = line.split_once("const ")?.1.split_once(": ")?;
        let kind = rest.split(' ').next()?;
        ["usize", "u32", "u64", "Duration"].contains(&kind).then(|| name.to_owned())
    });
    declared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read() {
        let read = |text| amount(text);
        assert_eq!(read("1,048,576"), Some(1 << 20));
        assert_eq!(read("64 KiB"), Some(64 << 10));
        assert_eq!(read("9 MiB"), Some(9 << 20));
        assert_eq!(read("2.5 s"), Some(2500));
        assert_eq!(read("450 ms"), Some(450));
        assert_eq!(read("3 parsecs"), None);
    }

    #[test]
    fn expressions_are_evaluated() {
        let read = |text| evaluate(Path::new("/"), "none", text);
        assert_eq!(read("16 * 1024 * 1024"), Some(16 << 20));
        assert_eq!(read("65_536 + 16 * 48 + 16"), Some(66_320));
        assert_eq!(read("1 << 22"), Some(1 << 22));
        assert_eq!(read("Duration::from_secs(60)"), Some(60_000));
    }
}

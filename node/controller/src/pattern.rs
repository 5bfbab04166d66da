//! Patterns of topic names.

use crate::topic::check_topic_name;

/// Holds one pattern against what a topic's name can be: its characters, and `*` for any number of them.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    let name = pattern.replace('*', "x");
    check_topic_name(&name).map_err(|error| {
        format!("the pattern '{pattern}' fits no topic name: {error}; '*' stands for any characters")
    })
}

/// Whether a pattern fits a whole name.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        // The earliest place leaves the most for those behind it.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, is_fit) in [
            ("orders", "orders", true),
            ("orders", "orders-eu", false),
            ("orders", "my-orders", false),
            ("*", "orders", true),
            ("eu-*", "eu-", true),
            ("eu-*", "us-eu-x", false),
            ("*.local", "a.local", true),
            ("*.local", "a.local.b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*bc*bc", "abc", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_fits_no_name_is_refused() {
        assert!(check("eu-*").is_ok() && check("*").is_ok() && check("a").is_ok());
        assert!(check("eu/*").unwrap_err().contains("eu/*"));
        assert!(check("").is_err());
    }
}

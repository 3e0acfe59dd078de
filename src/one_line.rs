//! Names of files, processes and domains are chosen by others: made fit for a terminal and a log here, where a
//! message leaves the process.

/// `text` on one line: control characters, and those that break lines or turn the direction of writing, as escapes
/// such as `\n` and `\u{1b}`. A text that has been through it once is not changed by it again.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => line.extend(c.escape_default()),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, line) in [
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("\u{202e}gmi.a\u{2028}", "\\u{202e}gmi.a\\u{2028}"),
            ("a b\\n ä€😀", "a b\\n ä€😀"),
        ] {
            assert_eq!(one_line(text), line);
            assert_eq!(one_line(line), line);
        }
    }
}

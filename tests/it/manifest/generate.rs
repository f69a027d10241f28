//! Random YAML: odd scalars in odd places, and small damage to good files.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value};

/// Scalars that readers of YAML have disagreed on, and some that they haven't.
#[rustfmt::skip]
pub const SCALARS: &[&str] = &[
    "y", "Y", "yes", "Yes", "YES", "yES", "n", "N", "no", "No", "NO", "true", "True", "TRUE", "tRUE",
    "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF", "~", "null", "Null", "NULL", "nULL",
    "nil", "", "=", "<<", "!", ".nan", ".NaN", ".inf", "-.inf", "+.inf", ".Inf", "inf", "Infinity", "-inf",
    "+Inf", "NaN", ".", "..", "...", "._1", "1_000", "1__000", "_1", "1_", "-1_0", "+1_0", "0_7", "0x_1F",
    "0x1_F", "1_0.5", ".1_0", "1e1_0", ".5_", "0b1_0", "0", "-0", "+0", "00", "1", "+1", "-1", "--1", "+-1",
    "12", "123456789", "017", "-017", "+017", "08", "09", "0o17", "0O17", "-0o17", "0o", "0o8", "0b1", "0B1",
    "-0b1", "+0b11", "0b", "0b2", "0x1F", "0X1f", "-0x1F", "0x", "0xg", "0644", "0755", "0400",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551615", "18446744073709551616", "+18446744073709551615", "99999999999999999999999",
    "9007199254740993", "0777777777777777777777", "01777777777777777777777", "07777777777777777777777",
    "0xffffffffffffffff", "0x10000000000000000",
    "0b1111111111111111111111111111111111111111111111111111111111111111",
    "-0b1000000000000000000000000000000000000000000000000000000000000000", "1000000000000000",
    "100000000000000008", "1.0", "1.", ".5", "-.5", "+.5", "1.5", "0.1", "1.10", "01.5", "1e3", "1E3",
    "1e+3", "1e-3", "12e03", "1.e1", ".5e1", "1e", "1e+", "e1", "1e400", "-1e400", "1e-400", "-1e-400",
    "1e15", "1e20", "1e21", "1e22", "1.8446744073709552e19", "1152921504606846976.0", "123456.7e3",
    "4.9e-324", "2.2250738585072011e-308", "0.30000000000000004", "1e2e3", "1.2.3", "0x1p4", "0x1.8p1",
    "0x.8", "1d", "1f", "100m", "1Gi", "10.0.0.1", "v1", "apps/v1", "12:30", "190:20:30", "190:20:30.15",
    "-1:30", "2001-01-01", "2001-1-1", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43.10 -5",
    "2001-12-14T21:59:43Z", "20010101", "2001-", "1-2", "1-2-3", "a: b", "a:b", "a :b", "a:", ":a", "::",
    ":", "a #b", "a#b", "#a", "a # b", "-", "- a", "-a", "--", "---", "--- a", "---a", "----", "?", "? a",
    "?a", "a?", "a?b", "&a", "&a b", "*a", "&", "*", "!a b", "!!str 1", "!!str", "!!int 1", "!!int 'x'",
    "!!float 1", "!!bool yes", "!!null ''", "!!binary aGk=", "!!str yes", "!!str ~", "!!str 'a'",
    "!!timestamp 2001-01-01", "!!map {}", "!!seq []", "!!merge <<", "!<tag:yaml.org,2002:str> 1", "!local x",
    "! 1", "!!omap []", "|", ">", "%a", "%YAML 1.1", "@a", "`a", "a%b", "\"a\"", "'a'", "''", "\"\"",
    "'it''s'", "\"\\u00e9\"", "\"\\x41\"", "\"\\U0001F600\"", "\"\\ud800\"", "\"\\ud83d\\ude00\"", "\"\\/\"",
    "\"\\ \"", "\"\\N\"", "\"\\L\"", "\"\\P\"", "\"\\_\"", "\"\\0\"", "\"\\a\\b\\e\\f\\v\\r\\n\\t\"",
    "\"\\'\"", "\"\\q\"", "\"\\U00110000\"", "\"a\tb\"", "'a\tb'", "a\tb", "a\t", "\ta", "\"a\\\n  b\"",
    "\"a\n  b\"", "\"a\n\n  b\"", "\"a \n  b\"", "\"a\\n\n  b\"", "\"a\nb\"", "'a\n  b'", "'a\n\n\n  b'",
    "a\n  b", "a\n\n  b", "a\n b", "a\n\n\n  b # c", "a # c\n  b", "{}", "[]", "{ }", "[ ]", "{a: b}",
    "{a:b}", "{a: }", "{a:}", "{a}", "{a, b}", "{a: b,}", "{,}", "{a: b,,}", "[a]", "[a,]", "[,]", "[a,,b]",
    "[a: b]", "[a:b]", "[a: b, c: d]", "[a b]", "[[a], b]", "{\"a\":1}", "{\"a\":b}", "{'a':b}",
    "{\"a\" : 1}", "{a: {b: c}}", "{a: [b]}", "[{a: b}]", "[-1]", "[- a]", "[-]", "{-: a}", "[a-b]", "[?]",
    "[? a]", "{? a}", "{? a : b}", "{a?: b}", "{a: b?}", "[a?]", "[:]", "[: a]", "[a:]", "[::]", "[a::b]",
    "[:a]", "{:a}", "{a: :b}", "{\"a\"::b}", "[\"a\":b]", "[\"a\":]", "[\"a\": b]", "[http://a/b:c]",
    "{a: http://b}", "{a: http://b:80}", "{a: b:}", "{a: b: c}", "{a: b\n}", "{a: b,\n  c: d}",
    "{\n  a: b\n  }", "[\n  a,\n  b\n  ]", "[a\n  b]", "{a\n  b: c}", "{a:\n  b}", "{\"a\"\n  : b}",
    "{a #c\n  : b}", "{a\n  : , b: c}", "{\"a\"\n  :}", "[a, #c\n  b]", "[a,#c\n  b]", "[a#b]", "{a: b}c",
    "{a: b} c", "{a: b} #c", "{a: b}#c", "\"a\"b", "\"a\" b", "\"a\" #b", "\"a\"#b", "'a'b", "[a]b", "[a]#b",
    "{a: *b}", "{a: &b c}", "{a: !!str }", "{a: !!str}", "{a: !!str, b: c}", "[!!str , a]", "[!!str a]",
    "{a: |}", "[|]", "[%a]", "[@a]", "[=]", "[<<]", "{<<: {a: b}}", "{<<: [{a: b}]}", "é", "日本", "\u{a0}",
    "a\u{a0}", "\u{2028}", "a\u{85}b", "\u{feff}", "a\u{feff}b", "\u{1f600}", "\u{7f}", "a\u{3000}b",
    "|\n  a\n  b", "|-\n  a\n  b", "|+\n  a\n\n", ">\n  a\n  b", ">-\n  a\n\n  b", ">\n  a\n   b\n  c",
    ">+\n  a\n\n", "|2\n    a", "|1\n  a", "|2-\n    a", "|-2\n    a", "|0\n  a", "|10\n  a", "| # c\n  a",
    "|# c\n  a", "|a\n  a", "|\n\n  a", "|\n    \n  a", "|\n   \n  a", "|\n  a\n b", "|\n  a\n# c\n  b",
    "|\n  # c\n  a", "|\n  a\n \n  b", "|\n  a\n      \n  b", "|\n\ta", "|\n  \ta", "|\n  a\tb", "|\n  a \n",
    "|\n", "|", ">\n\n\n  a", ">\n  a\n\n\n  b\n\n", ">\n  a\n  \tb\n  c", ">\n   a\n  b", "|\n  ---\n  a",
    "|\n---\n", "|\n  ...\n", "|\n...\n", "|-\n  a\n\n\n", "|\n  %a", ">\n  - a\n  - b", "|  \n  a",
    "|\t\n  a", "|-\t# c\n  a", ">1-\n  a",
];

/// Every scalar as a value, a key, in a list, in brackets, after a tag, before a comment, beside a neighbour.
pub fn every_scalar() -> Vec<Vec<u8>> {
    let places: &[fn(&str) -> String] = &[
        |s| s.to_owned(),
        |s| format!("{s}\n"),
        |s| format!("a: {s}\n"),
        |s| format!("a:   {s}   \nb: c\n"),
        |s| format!("a: {s} # comment\nb: 1\n"),
        |s| format!("a: {s}\n# comment\nb: 1\n"),
        |s| format!("{s}: a\n"),
        |s| format!("{s}: a\nb: c\n"),
        |s| format!("a: b\n{s} : c\n"),
        |s| format!("{s}:\n  a: b\n"),
        |s| format!("- {s}\n- a\n"),
        |s| format!("a:\n- {s}\n- b\n"),
        |s| format!("a:\n  - b: {s}\n    c: d\n"),
        |s| format!("a:\n  {s}\n"),
        |s| format!("a:\n{s}\n"),
        |s| format!("a: [{s}, b]\n"),
        |s| format!("a: [{s}]\n"),
        |s| format!("a: {{b: {s}}}\n"),
        |s| format!("a: {{{s}: b}}\n"),
        |s| format!("a: {{{s}: b, c: d}}\n"),
        |s| format!("a: !!str {s}\nb: c\n"),
        |s| format!("a: &x {s}\nb: *x\n"),
        |s| format!("a: '{s}'\n"),
        |s| format!("a: \"{s}\"\n"),
        |s| format!("a: |\n  {s}\nb: c\n"),
        |s| format!("a: >-\n  {s}\n  {s}\n\n   {s}\nb: c\n"),
        |s| format!("a: b\n  {s}\nc: d\n"),
        |s| format!("# {s}\na: b #{s}\n"),
        |s| format!("a: b\n---\n{s}\n---\nc: d\n"),
        |s| format!("---\na: {s}\n...\n"),
        |s| format!("a: {s}\r\nb: c\r\n"),
        |s| format!("<<: {s}\na: b\n"),
        |s| format!("{{\"a\": {s}}}"),
    ];
    SCALARS.iter().flat_map(|scalar| places.iter().map(|place| place(scalar).into_bytes())).collect()
}

/// A YAML node before it is written at some indentation.
#[derive(Debug, Clone)]
enum Node {
    Raw(String),
    Block(String, Vec<String>),
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Flow(String),
    Anchored(&'static str, Box<Node>),
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(SCALARS).prop_map(str::to_owned),
        4 => "[a-z]{1,4}",
        2 => "[a-z0-9:/. #,-]{0,8}",
        1 => "[ -~]{0,6}",
        2 => "'[a-z :#{}\\[\\],&*!?|>-]{0,6}'",
        2 => "\"[a-z :#{}\\[\\],&*!?|>-]{0,6}\"",
        1 => "[0-9+._eExob-]{1,7}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => "[a-e]{1,2}",
        2 => select(SCALARS).prop_map(str::to_owned),
        1 => Just("<<".to_owned()),
        1 => "'[a-e]'",
        1 => "\"[a-e:]{1,2}\"",
    ]
}

fn flow() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![3 => "[a-z0-9]{1,3}", 1 => scalar(), 1 => Just("*x".to_owned())];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let pair = (key(), select(&[": ", ":", " : ", ":\n  ", ":  "][..]), inner.clone());
        let pair = pair.prop_map(|(key, colon, value)| format!("{key}{colon}{value}"));
        let comma = select(&[", ", ",", " , ", ",\n  ", ", # c\n  "][..]);
        prop_oneof![
            (vec(inner, 0..4), comma.clone()).prop_map(|(items, comma)| format!("[{}]", items.join(comma))),
            (vec(pair, 0..4), comma).prop_map(|(pairs, comma)| format!("{{{}}}", pairs.join(comma))),
        ]
    })
}

fn node() -> impl Strategy<Value = Node> {
    let lines = vec(prop_oneof![4 => "[a-z:# -]{0,6}", 1 => Just(String::new()), 1 => scalar()], 0..4);
    let leaf = prop_oneof![
        6 => scalar().prop_map(Node::Raw),
        1 => Just(Node::Raw("*x".to_owned())),
        1 => Just(Node::Raw("*y".to_owned())),
        2 => ("[|>][+-]?[1-4]?( #c)?", lines).prop_map(|(header, lines)| Node::Block(header, lines)),
        2 => flow().prop_map(Node::Flow),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            4 => vec((key(), inner.clone()), 0..4).prop_map(Node::Map),
            3 => vec(inner.clone(), 0..4).prop_map(Node::List),
            1 => (select(&["&x ", "&y ", "!!str ", "&x !!str "][..]), inner).prop_map(|(anchor, node)| Node::Anchored(anchor, Box::new(node))),
        ]
    })
}

impl Node {
    fn write(&self, out: &mut String, indent: usize, inline: bool) {
        let pad = " ".repeat(indent);
        match self {
            Self::Raw(text) | Self::Flow(text) => {
                out.push_str(&text.replace('\n', &format!("\n{pad}")));
                out.push('\n');
            }
            Self::Block(header, lines) => {
                out.push_str(header);
                out.push('\n');
                for line in lines {
                    out.extend([pad.as_str(), line, "\n"]);
                }
            }
            Self::Anchored(anchor, node) => {
                out.push_str(anchor);
                node.write(out, indent, false);
            }
            Self::Map(pairs) => {
                let mut first = inline;
                if !inline {
                    out.push('\n');
                }
                for (key, value) in pairs {
                    out.push_str(if std::mem::take(&mut first) { "" } else { &pad });
                    out.push_str(key);
                    out.push_str(": ");
                    value.write(out, indent + 2, false);
                }
            }
            Self::List(items) => {
                let mut first = inline;
                if !inline {
                    out.push('\n');
                }
                for item in items {
                    out.push_str(if std::mem::take(&mut first) { "" } else { &pad });
                    out.push_str("- ");
                    item.write(out, indent + 2, true);
                }
            }
        }
    }
}

/// A file of some documents.
pub fn file() -> impl Strategy<Value = Vec<u8>> {
    let separator = select(
        &[
            "---\n",
            "---\n",
            "--- # c\n",
            "...\n---\n",
            "---\n---\n",
            "---  \n",
            "# c\n---\n",
            "...\n",
            "\n",
            "--- a\n",
        ][..],
    );
    let start = select(&["", "", "", "---\n", "# c\n", "\n\n", "\u{feff}", "%YAML 1.1\n---\n", "  "][..]);
    let breaks = select(&["\n", "\n", "\n", "\n", "\r\n"][..]);
    (start, vec((node(), separator), 1..4), breaks, any::<bool>()).prop_map(
        |(start, documents, breaks, end)| {
            let mut text = start.to_owned();
            let last = documents.len() - 1;
            for (number, (node, separator)) in documents.iter().enumerate() {
                node.write(&mut text, 0, true);
                if number < last {
                    text.push_str(separator);
                }
            }
            if end {
                text.truncate(text.trim_end_matches('\n').len());
            }
            text.replace('\n', breaks).into_bytes()
        },
    )
}

/// Damage: what is put in, in place of how many bytes.
const PIECES: &[&str] = &[
    "", "", "", " ", "  ", "\n", "\n\n", "\t", ":", ": ", "-", "- ", "?", "? ", "#", " #", ",", "[", "]",
    "{", "}", "&x ", "*x", "!", "!!str ", "|", ">", "'", "\"", "%", "@", "`", "\\", "---\n", "\n---\n",
    "\n...\n", "<<: ", "~", "0", "_", ".", "e", "\r", "\r\n", "\u{85}", "\u{2028}", "\u{feff}", "\u{0}",
    "\u{a0}", "é", "=",
];

/// A good or a generated file with some bytes or lines changed.
pub fn mutated(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change =
        (any::<prop::sample::Index>(), 0_usize..4, select(PIECES), 0_u8..8, any::<prop::sample::Index>());
    let base = prop_oneof![select(good), file()];
    (base, vec(change, 1..4)).prop_map(|(mut file, changes)| {
        for (at, remove, piece, how, other) in changes {
            if how == 0 {
                let mut lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
                if !lines.is_empty() {
                    let (from, to) = (at.index(lines.len()), other.index(lines.len()));
                    if remove == 0 { lines.swap(from, to) } else { lines.insert(to, lines[from]) }
                }
                file = lines.concat();
                continue;
            }
            let from = at.index(file.len() + 1);
            let to = (from + remove).min(file.len());
            file.splice(from..to, piece.bytes());
        }
        file
    })
}

/// Any JSON value, with keys and text that are hard to write.
pub fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        3 => select(SCALARS).prop_map(str::to_owned),
        2 => ".{0,8}",
        2 => "[a-z \\n:#-]{0,12}",
        1 => "[ \\t\\n\\r\u{85}\u{2028}\u{feff}\u{0}\u{7f}a]{0,6}",
        1 => "([a-z]{1,9} ){10,30}",
        1 => (0_usize..4, "[a-z\\n ]{0,40}").prop_map(|(count, text)| " ".repeat(count) + &text),
    ];
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000_i64..1000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-100.0_f64..100.0).prop_map(Value::from),
        (0_i32..30).prop_map(|power| Value::from(10_f64.powi(power))),
    ];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        6 => text.clone().prop_map(Value::from),
        3 => number,
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            vec((text.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

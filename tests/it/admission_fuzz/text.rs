//! What is done to the text of a body.

use serde_json::Value;

use super::dice::Dice;

/// Keys that are written twice, or otherwise.
const KEYS: [&str; 7] =
    ["image", "reference", "containers", "initContainers", "ephemeralContainers", "volumes", "spec"];

/// Bends a JSON text.
pub fn json(dice: &mut Dice, mut text: String, evil: &str, how: &mut Vec<&'static str>) -> Vec<u8> {
    match dice.below(10) {
        0..=3 => {
            how.push("key twice");
            key_twice(dice, &mut text, evil);
        }
        4 | 5 => {
            how.push("escaped key");
            escaped_key(dice, &mut text);
        }
        6 | 7 => {
            how.push("bytes");
            return bytes(dice, text.into_bytes());
        }
        8 => {
            how.push("more after it");
            let again = format!("\n{text}");
            let more = [" ", "\n{}", "\u{0}", "]", "}", "//", "\n---\n{}", &again, "\n{\"spec\":null}"];
            if dice.chance(20) { text.insert(0, '\u{feff}') } else { text.push_str(dice.one(&more)) }
        }
        _ => {
            how.push("cut");
            let end = (0..dice.below(text.len() + 1)).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
        }
    }
    text.into_bytes()
}

/// Where a key begins, with its quotes.
fn somewhere(dice: &mut Dice, text: &str) -> Option<(usize, &'static str)> {
    let found: Vec<(usize, &str)> = KEYS
        .into_iter()
        .flat_map(|key| {
            text.match_indices(&format!("\"{key}\":")).map(move |(at, _)| (at, key)).collect::<Vec<_>>()
        })
        .collect();
    (!found.is_empty()).then(|| dice.one(&found))
}

/// What a key holds that nobody approved.
fn holding(key: &str, evil: &str) -> String {
    let list = |entry: String| format!("[{{\"name\":\"app\",{entry}}}]");
    match key {
        "image" | "reference" => format!("\"{evil}\""),
        "volumes" => list(format!("\"image\":{{\"reference\":\"{evil}\"}}")),
        "spec" => format!("{{\"containers\":{}}}", list(format!("\"image\":\"{evil}\""))),
        _ => list(format!("\"image\":\"{evil}\"")),
    }
}

fn key_twice(dice: &mut Dice, text: &mut String, evil: &str) {
    let Some((at, key)) = somewhere(dice, text) else { return };
    let held = holding(key, evil);
    let after = at + key.len() + 3;
    // Behind a plain text, or before the key.
    let end = text[after..].strip_prefix('"').and_then(|rest| rest.find('"')).map(|end| after + end + 2);
    match end {
        Some(end) if dice.chance(60) => text.insert_str(end, &format!(",\"{key}\":{held}")),
        _ => text.insert_str(at, &format!("\"{key}\":{held},")),
    }
}

fn escaped_key(dice: &mut Dice, text: &mut String) {
    let Some((at, key)) = somewhere(dice, text) else { return };
    let letter = dice.below(key.len());
    let code = u32::from(key.as_bytes()[letter]);
    let escaped = match dice.below(4) {
        0 | 1 => format!("\\u{code:04x}"),
        2 => format!("\\U{code:04x}"),
        _ => format!("\\u{code:04x}\\ud800"),
    };
    text.replace_range(at + 1 + letter..at + 2 + letter, &escaped);
}

fn bytes(dice: &mut Dice, mut text: Vec<u8>) -> Vec<u8> {
    for _ in 0..=dice.below(3) {
        if text.is_empty() {
            break;
        }
        let at = dice.below(text.len());
        let byte = dice.one(b"\0\"\\{}[],: \n\xff\xc3a0~$");
        match dice.below(3) {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            _ => drop(text.remove(at)),
        }
    }
    text
}

/// The value as YAML, bent.
pub fn yaml(dice: &mut Dice, value: &Value, evil: &str, how: &mut Vec<&'static str>) -> Vec<u8> {
    let mut text = serde_yaml::to_string(value).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_image = |line: &String| {
        let key = line.trim_start().trim_start_matches("- ");
        key.starts_with("image: ") || key.starts_with("reference: ")
    };
    let images: Vec<usize> = (0..lines.len()).filter(|line| is_image(&lines[*line])).collect();
    let at = if images.is_empty() { None } else { Some(dice.one(&images)) };
    let line = at.map(|at| lines[at].clone()).unwrap_or_default();
    let indent = line.len() - line.trim_start().trim_start_matches("- ").len();
    let blank = " ".repeat(indent);
    let (key, image) = line.split_once(": ").unwrap_or_default();
    let instead = match dice.below(12) {
        0 => {
            how.push("yaml: anchor");
            text = text.replacen("metadata:", &format!("x: &evil {evil}\nmetadata:"), 1);
            Some(format!("{key}: *evil"))
        }
        1 => {
            how.push("yaml: merge key");
            Some(format!("{line}\n{blank}<<: {{image: \"{evil}\", reference: \"{evil}\"}}"))
        }
        2 | 3 => {
            how.push("yaml: key twice");
            let again = format!("{blank}{}: \"{evil}\"", key.trim_start().trim_start_matches("- "));
            Some(format!("{line}\n{again}"))
        }
        4 => {
            how.push("yaml: documents");
            let other = text.replace(image.trim_matches(['\'', '"']), evil);
            text = if dice.chance(50) {
                format!("{text}---\n{other}")
            } else {
                format!("---\n{text}...\n{other}")
            };
            None
        }
        5 => {
            how.push("yaml: block");
            let style = dice.one(&["|", ">", "|-", ">-", "|+"]);
            Some(format!("{key}: {style}\n{blank}  {evil}"))
        }
        6 => {
            how.push("yaml: tag");
            let tagged = [
                format!("!!str {image}"),
                format!("!!binary {}", base64_of(evil)),
                format!("! {evil} # {image}"),
                format!("{image} # {evil}"),
                format!("!<tag:yaml.org,2002:str> \"{}\"", evil.replace('r', "\\x72")),
                format!("\"{}\"", image.trim_matches(['\'', '"']).replace('r', "\\u0072")),
            ];
            Some(format!("{key}: {}", dice.one(&tagged)))
        }
        7 => {
            how.push("yaml: flow");
            Some(format!("{line}\n{blank}? \"ima\\x67e\"\n{blank}: \"{evil}\""))
        }
        _ => None,
    };
    if let (Some(instead), Some(_)) = (instead, at) {
        text = text.replacen(&line, &instead, 1);
    }
    text.into_bytes()
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

//! Plain scalars to values: the tables of go-yaml v2's `resolve.go` and Go's `strconv`, nothing else.

use serde_json::{Number, Value};

/// What a plain scalar is to Go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text,
    /// Something we don't promise to read as Go does, or that JSON can't hold.
    Refused(&'static str),
}

/// Resolves a scalar without quotes and without a tag.
pub(super) fn plain(text: &str) -> Plain {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Plain::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Plain::Bool(false)
        }
        "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => Plain::Refused("JSON has no such number"),
        _ => match text.as_bytes()[0] {
            b'.' => fraction(text),
            b'0'..=b'9' | b'+' | b'-' => number(text),
            _ => Plain::Text,
        },
    }
}

/// Go gives text that starts with a point to `ParseFloat` as it stands, whose rules for `_` are its own.
fn fraction(text: &str) -> Plain {
    if !text.contains('_') {
        return float(text);
    }
    match float(&text.replace('_', "")) {
        Plain::Text => Plain::Text,
        _ => Plain::Refused("Go has its own rules for `_` here"),
    }
}

/// Integers in Go's notations, then floats. Dates never match either, and Go keeps them as text.
fn number(text: &str) -> Plain {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.as_bytes().first() {
        Some(b'-') => (true, &plain[1..]),
        Some(b'+') => (false, &plain[1..]),
        _ => (false, plain.as_str()),
    };
    let Some(magnitude) = magnitude(digits) else { return large_or_float(&plain, digits) };
    if negative {
        return match 0_i64.checked_sub_unsigned(magnitude) {
            Some(int) => Plain::Int(int),
            None => large_or_float(&plain, digits),
        };
    }
    match i64::try_from(magnitude) {
        Ok(int) => Plain::Int(int),
        // `ParseUint` takes no sign.
        Err(_) if plain.starts_with('+') => large_or_float(&plain, digits),
        Err(_) => Plain::Uint(magnitude),
    }
}

fn large_or_float(plain: &str, digits: &str) -> Plain {
    let big = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() > 15;
    if big { Plain::Refused("the integer is too large for 64 bits") } else { float(plain) }
}

/// `strconv.ParseUint(digits, 0, 64)` without underscores.
fn magnitude(digits: &str) -> Option<u64> {
    let (radix, digits) = match digits.as_bytes() {
        [] => return None,
        [b'0', b'b' | b'B', _, ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &digits[2..]),
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0'] => return Some(0),
        [b'0', ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // from_str_radix would take a second sign.
    if !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`, then `strconv.ParseFloat`, where out of range is text.
fn float(text: &str) -> Plain {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    if !mantissa_ok || exponent.is_some_and(|exponent| exponent.is_empty() || !digits(exponent)) {
        return Plain::Text;
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Plain::Float(float),
        _ => Plain::Text,
    }
}

/// A float as it comes out of Go: `encoding/json` writes whole ones below 1e21 without a point, in the shortest
/// digits that read back as the same float, and the reader of that text takes them for integers if they fit.
pub(super) fn float_value(float: f64) -> Value {
    if float.fract() == 0.0 && float.abs() < 1e21 {
        let text = if float == 0.0 { "0".to_owned() } else { float.to_string() };
        if let Ok(int) = text.parse::<i64>() {
            return int.into();
        }
        if let Ok(int) = text.parse::<u64>() {
            return int.into();
        }
    }
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

//! Conditions of policies: CEL over a statement.
//!
//! The language has no limits of its own, so they are set before: on the length of an expression, its loops, the size of what it is
//! about, and their product. What remains takes moments; the caller still runs it beside the threads that answer, with a time-out.
//! The parser calls itself for each bracket and operator, and takes more of the stack than the threads of a server have: it runs on one
//! of its own, which is waited for.
#![allow(clippy::large_stack_arrays, reason = "of a test")]

use std::thread;

use cel::{
    Context, Value,
    common::ast::{EntryExpr, Expr, IdedExpr},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::json;

use super::{Condition, Fingerprint};
use crate::domain::image::{Digest, Repository};

/// How long an expression may be, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// How many steps it may take, by a rough count from above.
const MAX_STEPS: u64 = 4_000_000;
/// How many operators, dots and brackets an expression may have, those in texts included.
const MAX_OPERATORS: usize = 400;
/// The stack for the parser, in bytes: the worst that the bounds let through takes a third of it without optimisations.
const STACK: usize = 128 << 20;
/// How many loops an expression may have.
const MAX_LOOPS: usize = 16;
/// How much of an error is kept, in characters.
const MAX_ERROR: usize = 200;

/// An expression that was read.
#[derive(Debug)]
pub struct Program {
    print: Fingerprint,
    program: cel::Program,
}

/// What an expression is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// `predicate` of the statement.
    pub predicate: &'a serde_json::Value,
    /// `subject` of the statement.
    pub subject: &'a serde_json::Value,
    /// `image.repository`
    pub repository: &'a Repository,
    /// `image.digest`
    pub digest: &'a Digest,
}

impl Program {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is no CEL, too long, names what is not there, or has too many loops.
    pub fn new(expression: &str) -> Result<Self, String> {
        if expression.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes"));
        }
        if expression.bytes().filter(|byte| b".+-*/%<>=!&|?([{".contains(byte)).count() > MAX_OPERATORS {
            return Err(format!("has more than {MAX_OPERATORS} operators, dots and brackets"));
        }
        deep(|| Self::read(expression))
    }

    fn read(expression: &str) -> Result<Self, String> {
        let program =
            cel::Program::compile(expression).map_err(|error| cut(&format!("is no CEL: {error}")))?;
        let mut walk = Walk::default();
        walk.visit(program.expression(), 0)?;
        let references = program.references();
        if let Some(other) = references
            .variables()
            .into_iter()
            .find(|name| !walk.bound.iter().any(|bound| bound == name) && !KNOWN.contains(name))
        {
            return Err(cut(&format!("{other} is none of predicate, subject and image")));
        }
        Ok(Self { print: Fingerprint::of(expression.as_bytes()), program })
    }

    /// Whether it holds. Only true is true: any other value, and whatever cannot be evaluated, is an error.
    pub fn evaluate(&self, about: &About<'_>) -> Condition {
        let holds = self.run(about).map_err(|why| cut(&why));
        Condition { expression: self.print.clone(), holds }
    }

    fn run(&self, about: &About<'_>) -> Result<bool, String> {
        let size = size(about.predicate).saturating_add(size(about.subject)).max(2);
        if steps(self.program.expression(), size) > MAX_STEPS {
            return Err("its loops are too many for a statement of this size".to_owned());
        }
        let image = json!({"repository": about.repository.as_str(), "digest": about.digest.as_str()});
        let run = || {
            let mut context = Context::default();
            for (name, value) in
                [("predicate", about.predicate), ("subject", about.subject), ("image", &image)]
            {
                let value = cel::to_value(Node(value)).map_err(|error| error.to_string())?;
                context.add_variable_from_value(name, value);
            }
            match self.program.execute(&context) {
                Ok(Value::Bool(holds)) => Ok(holds),
                Ok(_) => Err("it is neither true nor false".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        deep(run)
    }
}

/// Runs on a thread with a deep stack. Neither parser nor interpreter is ours: what they stumble over is refused, whatever way they
/// stumble.
fn deep<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("cel".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("no thread for CEL: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("cannot be read as CEL".to_owned()))
    })
}

/// What an expression may name.
const KNOWN: [&str; 3] = ["predicate", "subject", "image"];

fn cut(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_ERROR).collect()
}

#[derive(Default)]
struct Walk {
    loops: usize,
    bound: Vec<String>,
}

impl Walk {
    fn visit(&mut self, of: &IdedExpr, depth: usize) -> Result<(), String> {
        if depth > MAX_OPERATORS {
            return Err("nested too deep".to_owned());
        }
        if let Expr::Struct(_) | Expr::Unspecified = &of.expr {
            return Err("messages cannot be made".to_owned());
        }
        if let Expr::Comprehension(all) = &of.expr {
            self.loops += 1;
            if self.loops > MAX_LOOPS {
                return Err(format!("more than {MAX_LOOPS} loops"));
            }
            self.bound.extend([all.iter_var.clone(), all.accu_var.clone()]);
            self.bound.extend(all.iter_var2.clone());
        }
        children(of).into_iter().try_for_each(|child| self.visit(child, depth + 1))
    }
}

fn children(of: &IdedExpr) -> Vec<&IdedExpr> {
    match &of.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(all) => {
            vec![&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                EntryExpr::StructField(field) => vec![&field.value],
            })
            .collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => Vec::new(),
    }
}

/// How many steps an expression takes at most where no list is longer than `size`. A loop that makes a list copies it each time.
fn steps(of: &IdedExpr, size: u64) -> u64 {
    let Expr::Comprehension(all) = &of.expr else {
        return children(of).into_iter().fold(1, |sum: u64, child| sum.saturating_add(steps(child, size)));
    };
    let turns = match &all.iter_range.expr {
        Expr::List(list) => u64::try_from(list.elements.len()).unwrap_or(u64::MAX),
        _ => size,
    };
    let copied = if matches!(all.accu_init.expr, Expr::List(_)) { turns } else { 1 };
    let turn = steps(&all.loop_cond, size).saturating_add(steps(&all.loop_step, size)).saturating_add(copied);
    steps(&all.iter_range, size)
        .saturating_add(turns.saturating_mul(turn))
        .saturating_add(steps(&all.result, size))
}

/// How many values there are in one.
fn size(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::Array(items) => items.iter().fold(1, |sum, item| sum + size(item)),
        serde_json::Value::Object(map) => map.values().fold(1, |sum, item| sum + size(item)),
        _ => 1,
    }
}

/// JSON as CEL reads it: whole numbers are `int`, so that they compare to those in expressions.
struct Node<'a>(&'a serde_json::Value);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => serializer.serialize_i64(whole),
                None => number.serialize(serializer),
            },
            serde_json::Value::Array(items) => serializer.collect_seq(items.iter().map(Node)),
            serde_json::Value::Object(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                for (key, value) in map {
                    out.serialize_entry(key, &Node(value))?;
                }
                out.end()
            }
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(expression: &str, predicate: &serde_json::Value) -> Result<bool, String> {
        let (repository, digest) = (
            "registry.example/shop/cart".parse().unwrap(),
            format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
        );
        let subject = json!([{"name": "cart"}]);
        let about = About { predicate, subject: &subject, repository: &repository, digest: &digest };
        Program::new(expression).unwrap().evaluate(&about).holds
    }

    #[test]
    fn what_holds_is_said_and_nothing_else_is_true() {
        let predicate = json!({"builder": {"id": "https://ci.example/a"}, "n": 3, "f": 0.5, "materials": [{"uri": "git+x"}, {"uri": "git+y"}], "none": null});
        for yes in [
            "predicate.builder.id == 'https://ci.example/a'",
            "predicate.n == 3 && predicate.f < 1.0",
            "predicate.materials.all(m, m.uri.startsWith('git+'))",
            "predicate.materials.exists(m, ['git+y', 'z'].exists(of, m.uri == of))",
            "subject[0].name == 'cart' && image.repository.endsWith('/cart') && image.digest.startsWith('sha256:')",
            "!has(predicate.missing) && has(predicate.builder)",
            "predicate.builder.id.matches('^https://ci[.]example/')",
            "predicate.none == null",
            "timestamp('2026-01-01T00:00:00Z') < timestamp('2027-01-01T00:00:00Z')",
        ] {
            assert_eq!(holds(yes, &predicate), Ok(true), "{yes}");
        }
        assert_eq!(holds("predicate.n == 4", &predicate), Ok(false));
        for error in [
            "predicate.missing == 1",
            "predicate.n",
            "'true'",
            "predicate.n / 0 == 1",
            "predicate.materials[9].uri == ''",
        ] {
            assert!(holds(error, &predicate).is_err(), "{error}");
        }
    }

    /// If this fails, one expression in one policy stops the operator for everybody.
    #[test]
    fn what_could_take_long_is_refused() {
        let deep = format!("{}1 == 1{}", "(".repeat(2000), ")".repeat(2000));
        let chain = format!("predicate{} == 1", ".a".repeat(1500));
        let sum = format!("{} == 1", ["1"; 1500].join("+"));
        let within = format!("{}1 == 1{}", "(".repeat(90), ")".repeat(90));
        let nots = format!("{}true", "!".repeat(4000));
        let minus = format!("{}1 == 1", "-".repeat(4000));
        let choice = format!("{}true", "true ? true : ".repeat(280));
        let lists = format!("{}{} == 1", "[".repeat(2000), "]".repeat(2000));
        let long = format!("'{}' == ''", "a".repeat(MAX_LENGTH));
        for bad in
            [&deep, &chain, &sum, &lists, &long, "", "1 +", "x == 1", "Foo{a: 1} == 1", "predicate.all(a, b)"]
        {
            assert!(Program::new(bad).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
        let chained = |part: &str, by: &str| vec![part; MAX_OPERATORS - 2].join(by) + " == 1";
        for odd in [
            &within,
            &nots,
            &minus,
            &choice,
            &chained("1", "+"),
            &chained("a", "."),
            &chained("1", "<"),
            &chained("true", "&"),
            &vec!["1"; 800].join(" in "),
            &"(".repeat(MAX_OPERATORS),
            &format!("'{}", "(".repeat(MAX_OPERATORS - 1)),
        ] {
            // Whichever way, it comes back.
            let _ = Program::new(odd);
        }
        assert!(Program::new(&within).is_ok());
        let many: Vec<u32> = (0..3000).collect();
        let predicate = json!({"l": many});
        assert_eq!(holds("predicate.l.all(x, x >= 0)", &predicate), Ok(true));
        for slow in [
            "predicate.l.all(x, predicate.l.all(y, predicate.l.exists(z, z == x + y)))",
            "predicate.l.map(x, predicate.l.map(y, x + y)).size() == 0",
        ] {
            assert!(holds(slow, &predicate).unwrap_err().contains("loops"), "{slow}");
        }
        assert!(Program::new(&["[1].all(x, true)"; 17].join(" && ")).unwrap_err().contains("loops"));
    }
}

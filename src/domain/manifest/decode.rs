//! Nodes to JSON: aliases, merge keys and keys as go-yaml v2's `decode.go` and `sigs.k8s.io/yaml` read them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Limits, Problem,
    resolve::{self, Plain},
    tree::{Id, Node, Tree},
};

/// Expands a document.
pub(super) fn decode(tree: &Tree<'_>, limits: &Limits) -> Result<Value, Problem> {
    // Go counts the document as a node.
    let mut decoder = Decoder { tree, limits, count: 1, aliased: 0, aliases: 0, inside_alias: 0, text: 0 };
    decoder.value(tree.root, 0)
}

struct Decoder<'t, 'a> {
    tree: &'t Tree<'a>,
    limits: &'t Limits,
    /// Nodes visited, as Go counts them.
    count: usize,
    /// Those among them that an alias led to.
    aliased: usize,
    aliases: usize,
    inside_alias: usize,
    /// Bytes of text, which aliases multiply too.
    text: usize,
}

/// A map, and whether all its keys were text before they became JSON.
struct Keys {
    map: Map<String, Value>,
    text_only: bool,
}

impl Decoder<'_, '_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value, Problem> {
        self.visit(id, depth)?;
        let tree = self.tree;
        match tree.node(id) {
            Node::Scalar { text, plain: false } => Ok(Value::String(text.to_string())),
            Node::Scalar { text, plain: true } => match resolve::plain(text) {
                Plain::Null => Ok(Value::Null),
                Plain::Bool(bool) => Ok(bool.into()),
                Plain::Int(int) => Ok(int.into()),
                Plain::Uint(int) => Ok(int.into()),
                Plain::Float(float) => Ok(resolve::float_value(float)),
                Plain::Text => Ok(Value::String(text.to_string())),
                Plain::Refused(why) => {
                    Err(self.problem(id, format!("cannot read the value ({why}); expected text; quote it")))
                }
            },
            Node::List(items) => items
                .iter()
                .map(|item| self.value(*item, depth + 1))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::Array),
            Node::Map(pairs) => self.map(pairs, depth).map(|keys| Value::Object(keys.map)),
            Node::Alias(target) => {
                self.enter()?;
                let value = self.value(*target, depth + 1);
                self.inside_alias -= 1;
                value
            }
        }
    }

    fn enter(&mut self) -> Result<(), Problem> {
        self.inside_alias += 1;
        self.aliases += 1;
        if self.aliases <= self.limits.aliases {
            return Ok(());
        }
        let (line, limit) = (self.tree.line(self.tree.root), self.limits.aliases);
        Err(Problem::new(
            line,
            format!("more than {limit} aliases when expanded; expected fewer; write them out"),
        ))
    }

    fn map(&mut self, pairs: &[(Id, Id)], depth: usize) -> Result<Keys, Problem> {
        let mut keys = Keys { map: Map::new(), text_only: true };
        let (mut own, mut merged) = (BTreeSet::new(), false);
        for (key, value) in pairs {
            if matches!(self.tree.node(*key), Node::Scalar { text, plain: true } if text == "<<") {
                if std::mem::replace(&mut merged, true) {
                    return Err(self.problem(*key, "`<<` stands twice; expected one; give it a list"));
                }
                self.merge(*value, depth, &own, &mut keys)?;
                continue;
            }
            self.visit(*key, depth + 1)?;
            let (name, text) = self.key(*key)?;
            keys.text_only &= text;
            if !own.insert(name.clone()) {
                let message = format!("the key `{name}` stands twice; expected it once; remove one");
                return Err(self.problem(*key, message));
            }
            let value = self.value(*value, depth + 1)?;
            keys.map.insert(name, value);
        }
        // To Go, `1` and `"1"` are two keys until they become JSON, and then the order is random.
        if merged && !keys.text_only {
            return Err(
                self.problem(pairs[0].0, "`<<` beside keys that aren't text; expected text; quote the keys")
            );
        }
        Ok(keys)
    }

    /// Go writes merged keys over those before `<<`, against the YAML specification: refused rather than followed.
    fn merge(
        &mut self,
        id: Id,
        depth: usize,
        own: &BTreeSet<String>,
        into: &mut Keys,
    ) -> Result<(), Problem> {
        let sources = match self.tree.node(id) {
            // The first of the list wins.
            Node::List(items) => items.iter().rev().copied().collect(),
            Node::Map(_) | Node::Alias(_) | Node::Scalar { .. } => vec![id],
        };
        for source in sources {
            self.visit(source, depth)?;
            let target = if let Node::Alias(target) = self.tree.node(source) {
                self.enter()?;
                self.visit(*target, depth)?;
                *target
            } else {
                source
            };
            let Node::Map(pairs) = self.tree.node(target) else {
                return Err(
                    self.problem(id, "`<<` without a map; expected a map or a list of maps; correct it")
                );
            };
            let Keys { map, text_only } = self.map(pairs, depth + 1)?;
            if target != source {
                self.inside_alias -= 1;
            }
            into.text_only &= text_only;
            if let Some(key) = map.keys().find(|key| own.contains(*key)) {
                let message =
                    format!("`<<` after the key `{key}`, which it sets too; readers differ; put `<<` first");
                return Err(self.problem(id, message));
            }
            into.map.extend(map);
        }
        Ok(())
    }

    /// A key as JSON text, and whether it was text before.
    fn key(&self, id: Id) -> Result<(String, bool), Problem> {
        let Node::Scalar { text, plain } = self.tree.node(id) else {
            return Err(
                self.problem(id, "a key that is a map, a list or an alias; expected text; write it out")
            );
        };
        if !plain {
            return Ok((text.to_string(), true));
        }
        match resolve::plain(text) {
            Plain::Text => Ok((text.to_string(), true)),
            Plain::Bool(bool) => Ok((bool.to_string(), false)),
            Plain::Int(int) => Ok((int.to_string(), false)),
            Plain::Null | Plain::Uint(_) | Plain::Float(_) | Plain::Refused(_) => {
                Err(self.problem(id, format!("the key `{text}` isn't text; expected text; quote it")))
            }
        }
    }

    /// Counts a node, and stops where we or Go would.
    fn visit(&mut self, id: Id, depth: usize) -> Result<(), Problem> {
        self.count += 1;
        self.aliased += usize::from(self.inside_alias > 0);
        let Limits { depth: deepest, nodes, .. } = *self.limits;
        if depth > deepest {
            return Err(
                self.problem(id, format!("nested more than {deepest} deep; expected less; flatten it"))
            );
        }
        if self.count > nodes {
            return Err(
                self.problem(id, format!("more than {nodes} keys and values; expected fewer; split it"))
            );
        }
        if let Node::Scalar { text, .. } = self.tree.node(id) {
            self.text = self.text.saturating_add(text.len());
        }
        let bytes = self.limits.file_bytes;
        if self.text > bytes {
            return Err(
                self.problem(id, format!("more than {bytes} bytes of text when expanded; expected fewer"))
            );
        }
        if self.aliased > 100 && self.count > 1000 && self.excessive() {
            return Err(
                self.problem(id, "aliases make up most of the document; kubectl refuses it; write them out")
            );
        }
        Ok(())
    }

    /// go-yaml's `allowedAliasRatio`, in thousandths and a little stricter.
    fn excessive(&self) -> bool {
        const LOW: usize = 400_000;
        const RANGE: usize = 3_600_000;
        let allowed =
            990_usize.saturating_sub((890 * self.count.saturating_sub(LOW)).div_ceil(RANGE)).max(100);
        self.aliased * 1000 > self.count * allowed
    }

    fn problem(&self, id: Id, message: impl Into<String>) -> Problem {
        Problem::new(self.tree.line(id), message)
    }
}

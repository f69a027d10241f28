//! One document to nodes with their lines.

use std::borrow::Cow;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle, Tag, options};

use super::{Limits, Problem, gap::Gap, scalar, split::Chunk};

/// Index of a node in its tree.
pub(super) type Id = usize;

/// A node, before aliases are expanded.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// Text; `plain` when neither quoted nor tagged `!!str`, so that Go resolves it.
    Scalar {
        text: Cow<'a, str>,
        plain: bool,
    },
    List(Vec<Id>),
    /// Keys and values in the order of the file.
    Map(Vec<(Id, Id)>),
    Alias(Id),
}

/// The nodes of one document.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<(usize, Node<'a>)>,
    /// The document's one node.
    pub(super) root: Id,
}

impl<'a> Tree<'a> {
    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id].1
    }

    /// Line in the file, from 1.
    pub(super) fn line(&self, id: Id) -> usize {
        self.nodes[id].0
    }

    /// The value of a key written in this map itself, aliases followed.
    pub(super) fn get(&self, map: Id, key: &str) -> Option<Id> {
        let Node::Map(pairs) = self.node(self.target(map)) else { return None };
        let is_key = |id: Id| matches!(self.node(id), Node::Scalar { text, .. } if text == key);
        pairs.iter().find(|(id, _)| is_key(*id)).map(|(_, value)| *value)
    }

    /// An item of a list, aliases followed.
    pub(super) fn item(&self, list: Id, index: usize) -> Option<Id> {
        let Node::List(items) = self.node(self.target(list)) else { return None };
        items.get(index).copied()
    }

    fn target(&self, id: Id) -> Id {
        if let Node::Alias(target) = self.node(id) { *target } else { id }
    }
}

/// Reads one document; none when the text holds nothing but blanks and comments.
pub(super) fn build<'a>(chunk: &'a Chunk, limits: &Limits) -> Result<Option<Tree<'a>>, Problem> {
    let mut options = options! {
        disallow_directives: true,
        flow_nesting_limit: limits.depth,
        block_nesting_limit: limits.depth,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::new(chunk, limits);
    for next in Parser::new_from_str_with_options(&chunk.text, options) {
        let (event, span) = next.map_err(|error| {
            let line = chunk.line + error.marker().line().saturating_sub(1);
            Problem::new(
                line,
                format!("{}; expected YAML that kubectl reads; correct the line", error.info()),
            )
        })?;
        builder.event(event, &span)?;
    }
    builder.gap(chunk.text.len())?;
    let Builder { nodes, root, .. } = builder;
    Ok(root.map(|root| Tree { nodes, root }))
}

/// A list or map whose end hasn't come yet; a map's odd number of nodes ends in a key.
struct Open {
    id: Id,
    flow: bool,
    map: bool,
    children: Vec<Id>,
}

struct Builder<'a, 'l> {
    chunk: &'a Chunk,
    limits: &'l Limits,
    nodes: Vec<(usize, Node<'a>)>,
    open: Vec<Open>,
    /// Nodes of the parser's anchors, by its number of the anchor.
    anchors: Vec<Option<Id>>,
    root: Option<Id>,
    /// Where the last scalar ended.
    end: usize,
    /// That scalar was a key.
    after_key: bool,
    documents: usize,
}

impl<'a, 'l> Builder<'a, 'l> {
    fn new(chunk: &'a Chunk, limits: &'l Limits) -> Self {
        Self {
            chunk,
            limits,
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: Vec::new(),
            root: None,
            end: 0,
            after_key: false,
            documents: 0,
        }
    }

    fn event(&mut self, event: Event<'a>, span: &Span) -> Result<(), Problem> {
        let line = self.chunk.line + span.start.line().saturating_sub(1);
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(..) => self.document(line),
            Event::Scalar(text, style, anchor, tag) => {
                let id = self.scalar(text, style, tag.as_deref(), span, line)?;
                self.anchor(anchor, id);
                Ok(())
            }
            Event::Alias(anchor) => {
                self.covered(span)?;
                self.after_key = false;
                let Some(target) = self.anchors.get(anchor).copied().flatten() else {
                    return Err(Problem::new(
                        line,
                        "an alias to nothing; expected an anchor before it; add it",
                    ));
                };
                if self.open.iter().any(|open| open.id == target) {
                    return Err(Problem::new(
                        line,
                        "an alias inside its own anchor; expected an end; remove it",
                    ));
                }
                self.add(line, Node::Alias(target)).map(|_| ())
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.start(Node::List(Vec::new()), style, anchor, tag.as_deref(), line)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.start(Node::Map(Vec::new()), style, anchor, tag.as_deref(), line)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            _ => Err(Problem::new(line, "unknown notation; expected plain YAML; rewrite the line")),
        }
    }

    /// Go reads the first document of a chunk and forgets the rest.
    fn document(&mut self, line: usize) -> Result<(), Problem> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Problem::new(line, "text after `...`; kubectl ignores it; separate documents with `---`"))
    }

    fn scalar(
        &mut self,
        text: Cow<'a, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: &Span,
        line: usize,
    ) -> Result<Id, Problem> {
        let (start, end) = self.covered(span)?;
        let source = self.chunk.text.get(start..end).unwrap_or_default();
        scalar::check(source, style, self.in_flow(), self.open.is_empty()).map_err(|what| {
            Problem::new(
                line,
                format!("{what}; YAML readers differ on it; quote the text, or write it otherwise"),
            )
        })?;
        let key = self.open.last().is_some_and(|open| open.map && open.children.len() % 2 == 0);
        // A missing value stands nowhere: what follows still belongs to its key.
        if start < end {
            self.after_key = key;
        }
        if key && source.contains('\n') {
            return Err(Problem::new(
                line,
                "a key of several lines; YAML readers differ on it; write it on one line",
            ));
        }
        // The parser shows a missing value as `~`.
        let text = if start == end && style == ScalarStyle::Plain { Cow::Borrowed("") } else { text };
        // The gap before it let only `!!str` pass.
        self.add(line, Node::Scalar { text, plain: style == ScalarStyle::Plain && tag.is_none() })
    }

    /// Checks the text since the last scalar, and that the parser knows where this one is.
    fn covered(&mut self, span: &Span) -> Result<(usize, usize), Problem> {
        let (Some(start), Some(end)) = (span.start.byte_offset(), span.end.byte_offset()) else {
            return Err(Problem::new(
                self.chunk.line,
                "a scalar without a place; expected plain YAML; rewrite it",
            ));
        };
        if start < end {
            self.gap(start)?;
            self.end = end;
        }
        Ok((start, end))
    }

    fn gap(&self, to: usize) -> Result<(), Problem> {
        let text = &self.chunk.text;
        let before = self.end.checked_sub(1).map_or(b'\n', |at| text.as_bytes()[at]);
        let between = text.get(self.end..to).unwrap_or("\u{0}");
        let gap = Gap {
            text: between,
            before,
            flow: self.in_flow(),
            after_key: self.after_key,
            ended: self.root.is_some() && self.open.is_empty(),
        };
        gap.check().map_err(|(at, what)| {
            let line = self.chunk.line + text[..self.end + at].matches('\n').count();
            Problem::new(line, format!("{what}; YAML readers differ on it; write the line without it"))
        })
    }

    fn start(
        &mut self,
        node: Node<'a>,
        style: StructureStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: usize,
    ) -> Result<(), Problem> {
        if tag.is_some() {
            return Err(Problem::new(line, "a tag; YAML readers differ on it; write the line without it"));
        }
        let map = matches!(node, Node::Map(_));
        let id = self.add(line, node)?;
        self.anchor(anchor, id);
        self.open.push(Open { id, flow: style == StructureStyle::Flow, map, children: Vec::new() });
        if self.open.len() > self.limits.depth {
            let limit = self.limits.depth;
            return Err(Problem::new(
                line,
                format!("nested more than {limit} deep; expected less; flatten it"),
            ));
        }
        Ok(())
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|open| open.flow)
    }

    fn close(&mut self) {
        let Some(Open { id, flow: _, map: _, children }) = self.open.pop() else { return };
        match &mut self.nodes[id].1 {
            Node::List(items) => *items = children,
            Node::Map(pairs) => *pairs = children.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
            Node::Scalar { .. } | Node::Alias(_) => {}
        }
    }

    fn add(&mut self, line: usize, node: Node<'a>) -> Result<Id, Problem> {
        let (id, limit) = (self.nodes.len(), self.limits.nodes);
        if id >= limit {
            return Err(Problem::new(
                line,
                format!("more than {limit} keys and values; expected fewer; split it"),
            ));
        }
        self.nodes.push((line, node));
        match self.open.last_mut() {
            Some(open) => open.children.push(id),
            None => self.root = Some(id),
        }
        Ok(id)
    }

    fn anchor(&mut self, anchor: usize, id: Id) {
        if anchor == 0 {
            return;
        }
        if self.anchors.len() <= anchor {
            self.anchors.resize(anchor + 1, None);
        }
        self.anchors[anchor] = Some(id);
    }
}

//! The values of a checkpoint as a tree, unfolded from a pickle's graph with bounds on depth, width and text.

use std::collections::BTreeMap;

use super::graph::{Array, Graph, Id, Node};
use super::view::View;
use crate::{Error, Result};

/// Nesting of dictionaries and lists. The deepest checkpoint of the field has six levels.
const MAX_DEPTH: usize = 64;
/// Values in all, counting a shared object once per mention.
const MAX_VALUES: usize = 1 << 20;
/// Bytes of text in all, and of one name.
const MAX_TEXT: usize = 16 << 20;
const MAX_NAME: usize = 1024;

/// The name of the only tensor of a file that holds nothing else.
pub const BARE: &str = "tensor";

/// A value of a checkpoint. Names of tensors are the keys on the way to them, joined by dots.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Raw bytes; only their number is kept.
    Bytes(usize),
    List(Vec<Value>),
    Dict(Vec<(String, Value)>),
    /// The tensor of this full name.
    Tensor(String),
    /// An object of an unknown class, kept inert: its class and what it was made of.
    Object(String, Vec<Value>),
}

impl Value {
    /// The value under a dotted path, such as `opts.output_size`. Keys may contain dots themselves.
    pub fn get(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        match self {
            Value::Dict(items) => items.iter().find_map(|(key, value)| {
                let rest = path.strip_prefix(key.as_str())?;
                if rest.is_empty() { Some(value) } else { value.get(rest.strip_prefix('.')?) }
            }),
            Value::List(items) => {
                let (index, rest) = path.split_once('.').unwrap_or((path, ""));
                items.get(index.parse::<usize>().ok()?)?.get(rest)
            }
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }
}

/// Where a named tensor's data lies: in a storage outside the pickle, or inside it.
#[derive(Debug, Clone)]
pub(super) enum Leaf {
    View(View),
    Array(Array),
}

/// A tree and its tensors by name.
pub(super) struct Unfolded {
    pub tree: Value,
    pub leaves: BTreeMap<String, Leaf>,
}

/// The tree under `root`.
pub(super) fn unfold(graph: &Graph, root: Id) -> Result<Unfolded> {
    let mut work = Work { graph, leaves: BTreeMap::new(), values: 0, text: 0, name: String::new() };
    let tree = work.value(root, 0)?;
    Ok(Unfolded { tree, leaves: work.leaves })
}

struct Work<'g, 'a> {
    graph: &'g Graph<'a>,
    leaves: BTreeMap<String, Leaf>,
    values: usize,
    text: usize,
    name: String,
}

impl Work<'_, '_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt(format!("its objects are nested deeper than {MAX_DEPTH} levels: not a checkpoint of this field")));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Error::corrupt(format!("unfolded, it holds more than {MAX_VALUES} values: not a checkpoint of this field")));
        }
        let graph = self.graph;
        Ok(match graph.node(id) {
            Node::None | Node::EmptyArray => Value::None,
            Node::Bool(b) => Value::Bool(*b),
            Node::Int(n) => Value::Int(*n),
            Node::Float(x) => Value::Float(*x),
            Node::Long(range) => Value::Bytes(range.len()),
            Node::Bytes(blob) => Value::Bytes(graph.blob(blob).len()),
            Node::Text(blob) => Value::Text(self.kept(&String::from_utf8_lossy(graph.blob(blob)))?),
            Node::Dtype(code, _) => Value::Text(self.kept(code)?),
            Node::Class(class) => Value::Text(self.kept(&format!("{class:?}"))?),
            Node::Storage(storage) => Value::Text(format!("storage {}", storage.key)),
            Node::List(items) | Node::Tuple(items) => {
                let items = items.iter().enumerate().map(|(i, id)| self.under(&i.to_string(), *id, depth));
                Value::List(items.collect::<Result<_>>()?)
            }
            Node::Dict(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (key, value) in items {
                    let key = self.key(*key)?;
                    let value = self.under(&key, *value, depth)?;
                    out.push((key, value));
                }
                let mut keys: Vec<&str> = out.iter().map(|(k, _)| k.as_str()).collect();
                keys.sort_unstable();
                if let Some(twice) = keys.windows(2).find(|w| w[0] == w[1]) {
                    return Err(Error::corrupt(format!("the key \"{}\" occurs twice in one dictionary", twice[0].escape_debug())));
                }
                Value::Dict(out)
            }
            Node::Object { class, parts } => {
                let parts = parts.iter().enumerate().map(|(i, id)| self.under(&i.to_string(), *id, depth));
                Value::Object(class.clone(), parts.collect::<Result<_>>()?)
            }
            Node::Tensor(view) => self.leaf(Leaf::View((**view).clone()))?,
            Node::Array(array) => self.leaf(Leaf::Array((**array).clone()))?,
        })
    }

    fn kept(&mut self, text: &str) -> Result<String> {
        self.text += text.len();
        if self.text > MAX_TEXT {
            return Err(Error::corrupt(format!("unfolded, it holds more than {MAX_TEXT} bytes of text: not a checkpoint of this field")));
        }
        Ok(text.to_string())
    }

    fn key(&mut self, id: Id) -> Result<String> {
        match self.graph.node(id) {
            Node::Text(blob) => {
                let key = self.graph.blob(blob);
                if key.len() > MAX_NAME {
                    return Err(Error::corrupt(format!("a key of {} bytes: not a checkpoint of this field", key.len())));
                }
                self.kept(&String::from_utf8_lossy(key))
            }
            Node::Int(n) => Ok(n.to_string()),
            Node::Bool(b) => Ok(b.to_string()),
            Node::None => Ok("None".into()),
            Node::Float(x) => Ok(x.to_string()),
            _ => Err(Error::corrupt("a dictionary has a key that is neither a text nor a number")),
        }
    }

    fn under(&mut self, key: &str, id: Id, depth: usize) -> Result<Value> {
        let len = self.name.len();
        if len > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        if self.name.len() > MAX_NAME {
            return Err(Error::corrupt(format!("a tensor's name is longer than {MAX_NAME} bytes: not a checkpoint of this field")));
        }
        let value = self.value(id, depth + 1)?;
        self.name.truncate(len);
        Ok(value)
    }

    fn leaf(&mut self, leaf: Leaf) -> Result<Value> {
        let name = if self.name.is_empty() { BARE.to_string() } else { self.name.clone() };
        if self.leaves.insert(name.clone(), leaf).is_some() {
            return Err(Error::corrupt(format!("two tensors have the name \"{}\"", name.escape_debug())));
        }
        Ok(Value::Tensor(name))
    }
}

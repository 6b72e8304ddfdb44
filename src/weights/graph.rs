//! The graph of values that a pickle stands for. It lives in one vector and refers to itself by number, so that shared
//! objects are shared (a few bytes that stand for 8^40 leaves cost nothing), cycles are harmless and dropping needs no
//! recursion.

use std::collections::HashMap;
use std::ops::Range;

use super::globals::Class;
use super::view::{Element, View};

/// The number of an object in its graph.
pub(super) type Id = u32;

/// Text or raw bytes: a range of the input, or made by an escape sequence or a conversion.
#[derive(Debug, Clone)]
pub(super) enum Blob {
    Input(Range<usize>),
    Made(Box<[u8]>),
}

/// A numpy array before its data is laid out.
#[derive(Debug, Clone)]
pub(super) struct Array {
    pub element: Element,
    pub shape: Vec<usize>,
    pub fortran: bool,
    pub big_endian: bool,
    pub data: Blob,
}

/// A storage of a torch container: named here, its bytes lie outside the pickle.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub key: String,
    pub element: Element,
    /// The part that tensors of this reference may see: start and length, in elements.
    pub window: (usize, usize),
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, as little-endian bytes.
    Long(Range<usize>),
    Float(f64),
    Text(Blob),
    Bytes(Blob),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class(Class),
    Storage(Box<Storage>),
    Tensor(Box<View>),
    /// A numpy dtype: its code and whether it is big-endian.
    Dtype(String, bool),
    /// A numpy array that waits for its state.
    EmptyArray,
    Array(Box<Array>),
    /// An object of a class that is not known: inert.
    Object {
        class: String,
        parts: Vec<Id>,
    },
}

/// What to do with a name that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Refuse the file and name it.
    Refuse,
    /// Keep it as an inert record.
    Record,
}

/// A finished graph.
pub(super) struct Graph<'a> {
    pub input: &'a [u8],
    pub nodes: Vec<Node>,
    pub root: Id,
    /// The first byte after the pickle.
    pub end: usize,
    /// Every storage by key: its element type and length, the same at each mention.
    pub storages: HashMap<String, (Element, usize)>,
}

impl Graph<'_> {
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub fn blob<'b>(&'b self, blob: &'b Blob) -> &'b [u8] {
        match blob {
            Blob::Input(range) => &self.input[range.clone()],
            Blob::Made(bytes) => bytes,
        }
    }

    /// The text of a text node.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(blob) => std::str::from_utf8(self.blob(blob)).ok(),
            _ => None,
        }
    }
}

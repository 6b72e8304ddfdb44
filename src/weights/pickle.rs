//! An inert reader of Python pickles (protocols 0 to 5): it builds a graph of plain values and never imports, calls or
//! runs anything. A pickle is a program for a small stack machine; this is that machine with the dangerous half left
//! out. What a "call" may mean is a closed list in [`super::globals`]; every other name is refused, or kept as a record
//! where the caller asked for that.
//!
//! Source of the opcodes: the Python library's own documentation of them (pickletools).

use std::collections::HashMap;
use std::ops::Range;

use super::globals;
use super::graph::{Blob, Graph, Id, Node, Unknown};
use crate::{Error, Result};

/// The longest pickle of a torch container, in bytes; the tensors' data is not part of it.
pub(super) const MAX_PICKLE: usize = 64 << 20;
/// Objects in one pickle. The largest checkpoint of the field has some ten thousand.
const MAX_NODES: usize = 4 << 20;
/// Elements that may be copied in all (lists into dictionaries, text into bytes).
const MAX_COPIED: usize = 64 << 20;

/// Reads the pickle that begins at byte `start` of `input`.
///
/// Errors: a name or call outside the list, a malformed or endless program, more objects than the bounds allow.
pub(super) fn read(input: &[u8], start: usize, unknown: Unknown) -> Result<Graph<'_>> {
    let graph = Graph { input, nodes: Vec::new(), root: 0, end: start, storages: HashMap::new() };
    let mut machine = Machine { graph, at: start, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), copied: 0, unknown };
    match machine.run() {
        Ok(()) => Ok(machine.graph),
        Err(error) => Err(error.at(format!("pickle, byte {}", machine.at))),
    }
}

pub(super) struct Machine<'a> {
    pub graph: Graph<'a>,
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    copied: usize,
    pub unknown: Unknown,
}

pub(super) fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::corrupt(what))
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let range = self.range(len)?;
        Ok(&self.graph.input[range])
    }

    fn range(&mut self, len: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.graph.input.len());
        let Some(end) = end else {
            return bad(format!(
                "{len} bytes are announced and only {} are left: the file is truncated or corrupt",
                self.graph.input.len() - self.at
            ));
        };
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    /// A little-endian count of `size` bytes.
    fn count(&mut self, size: usize) -> Result<usize> {
        let bytes = self.take(size)?;
        let value = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(value).map_err(|_| Error::corrupt(format!("a length of {value} bytes")))
    }

    /// The line that ends a text argument, without its newline.
    fn line(&mut self) -> Result<Range<usize>> {
        let rest = &self.graph.input[self.at..];
        let Some(len) = rest.iter().take(1 << 20).position(|b| *b == b'\n') else { return bad("a text argument has no end") };
        let range = self.at..self.at + len;
        self.at += len + 1;
        Ok(range)
    }

    fn line_text(&mut self) -> Result<&'a str> {
        let range = self.line()?;
        std::str::from_utf8(&self.graph.input[range]).or_else(|_| bad("a text argument is not UTF-8"))
    }

    pub fn add(&mut self, node: Node) -> Result<Id> {
        if self.graph.nodes.len() >= MAX_NODES {
            return bad(format!("more than {MAX_NODES} objects: not a checkpoint of this field"));
        }
        self.graph.nodes.push(node);
        Ok((self.graph.nodes.len() - 1) as Id)
    }

    /// Accounts for `n` copied elements or bytes.
    pub fn copies(&mut self, n: usize) -> Result<()> {
        self.copied = self.copied.saturating_add(n);
        if self.copied > MAX_COPIED { bad("it copies its own objects over and over: not a checkpoint of this field") } else { Ok(()) }
    }

    fn push(&mut self, node: Node) -> Result<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, len: usize) -> Result<()> {
        let range = self.range(len)?;
        if std::str::from_utf8(&self.graph.input[range.clone()]).is_err() {
            return bad("a text is not UTF-8");
        }
        self.push(Node::Text(Blob::Input(range)))
    }

    /// A Python 2 string: text where it is UTF-8, else bytes.
    fn push_string(&mut self, len: usize) -> Result<()> {
        let range = self.range(len)?;
        let text = std::str::from_utf8(&self.graph.input[range.clone()]).is_ok();
        let blob = Blob::Input(range);
        self.push(if text { Node::Text(blob) } else { Node::Bytes(blob) })
    }

    fn push_bytes(&mut self, len: usize) -> Result<()> {
        let range = self.range(len)?;
        self.push(Node::Bytes(Blob::Input(range)))
    }

    fn pop(&mut self) -> Result<Id> {
        // Nothing below the innermost mark may be taken: the items there belong to an unfinished collection.
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(|items| items.last()) {
            Some(id) => Ok(*id),
            None => bad("an operation finds nothing on the stack: the file is corrupt"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let Some(mark) = self.marks.pop() else { return bad("a collection ends that was never begun: the file is corrupt") };
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() < floor + n {
            return bad("an operation finds nothing on the stack: the file is corrupt");
        }
        let items = self.stack.split_off(self.stack.len() - n);
        self.push(Node::Tuple(items))
    }

    fn remember(&mut self, index: usize) -> Result<()> {
        let Ok(index) = u32::try_from(index) else { return bad("a memo index beyond 32 bits") };
        let id = self.top()?;
        if self.memo.len() >= MAX_NODES {
            return bad("too many remembered objects");
        }
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<()> {
        match u32::try_from(index).ok().and_then(|i| self.memo.get(&i)) {
            Some(id) => self.stack.push(*id),
            None => return bad(format!("it recalls object {index}, which it never made: the file is corrupt")),
        }
        Ok(())
    }

    /// Appends to a list (or to the parts of an inert record).
    fn append(&mut self, to: Id, items: Vec<Id>) -> Result<()> {
        match &mut self.graph.nodes[to as usize] {
            Node::List(list) => list.extend(items),
            Node::Object { parts, .. } => parts.extend(items),
            _ => return bad("it appends to something that is not a list: the file is corrupt"),
        }
        Ok(())
    }

    fn set_items(&mut self, to: Id, items: Vec<Id>) -> Result<()> {
        if !items.len().is_multiple_of(2) {
            return bad("a key has no value: the file is corrupt");
        }
        match &mut self.graph.nodes[to as usize] {
            Node::Dict(dict) => dict.extend(items.as_chunks::<2>().0.iter().map(|[k, v]| (*k, *v))),
            Node::Object { parts, .. } => parts.extend(items),
            _ => return bad("it sets items of something that is not a dictionary: the file is corrupt"),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let class = globals::lookup(module, name, self.unknown)?;
        self.push(Node::Class(class))
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let class = match (self.graph.text(module), self.graph.text(name)) {
            (Some(module), Some(name)) => globals::lookup(module, name, self.unknown)?,
            _ => return bad("a class is named by something that is not a text: the file is corrupt"),
        };
        self.push(Node::Class(class))
    }

    fn call(&mut self, class: Id, args: Id) -> Result<()> {
        let id = globals::call(self, class, args)?;
        self.stack.push(id);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let Some(&op) = self.graph.input.get(self.at) else {
                return bad("it has no end: the file is truncated");
            };
            self.at += 1;
            match op {
                b'.' => break,
                0x80 => {
                    let protocol = self.count(1)?;
                    if protocol > 5 {
                        return bad(format!("pickle protocol {protocol} is not known"));
                    }
                }
                0x95 => self.count(8).map(drop)?,
                b'(' => self.marks.push(self.stack.len()),
                b'0' if self.marks.last() == Some(&self.stack.len()) => self.marks.pop().map(drop).unwrap_or(()),
                b'0' => self.pop().map(drop)?,
                b'1' => self.pop_mark().map(drop)?,
                b'2' => self.stack.push(self.top()?),
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'K' | b'M' | b'J' | 0x8a | 0x8b | b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e | 0x96 | b'q' | b'r' | b'h'
                | b'j' => {
                    let n = self.count(width(op))?;
                    match op {
                        b'K' | b'M' => self.push(Node::Int(n as i64))?,
                        b'J' => self.push(Node::Int(i64::from(n as u32 as i32)))?,
                        0x8a | 0x8b => self.long(n)?,
                        b'X' | 0x8c | 0x8d => self.push_text(n)?,
                        b'U' | b'T' => self.push_string(n)?,
                        b'q' | b'r' => self.remember(n)?,
                        b'h' | b'j' => self.recall(n)?,
                        _ => self.push_bytes(n)?,
                    }
                }
                b'G' => {
                    let bytes = self.take(8)?;
                    let bits = bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
                    self.push(Node::Float(f64::from_bits(bits)))?
                }
                b'I' | b'L' => {
                    let text = self.line_text()?.trim_end_matches('L');
                    let node = match (op, text) {
                        (b'I', "01") => Node::Bool(true),
                        (b'I', "00") => Node::Bool(false),
                        _ => Node::Int(text.parse().or_else(|_| bad(format!("\"{}\" is not an integer", text.escape_debug())))?),
                    };
                    self.push(node)?
                }
                b'F' => {
                    let text = self.line_text()?;
                    self.push(Node::Float(text.parse().or_else(|_| bad("a number is not a number"))?))?
                }
                b'V' | b'S' => {
                    let mut range = self.line()?;
                    if self.graph.input[range.clone()].contains(&b'\\') {
                        return bad("an escaped text of pickle protocol 0 is not read: save the file with protocol 2 or later");
                    }
                    if op == b'S' && range.len() >= 2 {
                        range = range.start + 1..range.end - 1;
                    }
                    let text = std::str::from_utf8(&self.graph.input[range.clone()]).is_ok();
                    let blob = Blob::Input(range);
                    self.push(if text { Node::Text(blob) } else { Node::Bytes(blob) })?
                }
                b')' => self.push(Node::Tuple(Vec::new()))?,
                0x85..=0x87 => self.tuple((op - 0x84) as usize)?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items))?
                }
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                b'l' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?
                }
                b'a' => {
                    let item = self.pop()?;
                    let to = self.top()?;
                    self.append(to, vec![item])?
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    let to = self.top()?;
                    self.append(to, items)?
                }
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b'd' => {
                    let items = self.pop_mark()?;
                    let dict = self.add(Node::Dict(Vec::new()))?;
                    self.set_items(dict, items)?;
                    self.stack.push(dict)
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    let to = self.top()?;
                    self.set_items(to, vec![key, value])?
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    let to = self.top()?;
                    self.set_items(to, items)?
                }
                b'p' | b'g' => {
                    let text = self.line_text()?;
                    let index = text.parse().or_else(|_| bad("a memo index is not a number"))?;
                    if op == b'p' { self.remember(index)? } else { self.recall(index)? }
                }
                0x94 => self.remember(self.memo.len())?,
                b'c' => {
                    let (module, name) = (self.line_text()?, self.line_text()?);
                    self.global(module, name)?
                }
                0x93 => self.stack_global()?,
                b'i' => {
                    let (module, name) = (self.line_text()?, self.line_text()?);
                    self.global(module, name)?;
                    let class = self.pop()?;
                    let args = self.pop_mark()?;
                    let args = self.add(Node::Tuple(args))?;
                    self.call(class, args)?
                }
                b'o' => {
                    let mut items = self.pop_mark()?;
                    if items.is_empty() {
                        return bad("an object has no class: the file is corrupt");
                    }
                    let class = items.remove(0);
                    let args = self.add(Node::Tuple(items))?;
                    self.call(class, args)?
                }
                b'R' | 0x81 => {
                    let (args, class) = (self.pop()?, self.pop()?);
                    self.call(class, args)?
                }
                0x92 => {
                    let (_, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(class, args)?
                }
                b'b' => {
                    let state = self.pop()?;
                    let object = self.top()?;
                    globals::build(self, object, state)?
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = globals::storage(self, id)?;
                    self.push(Node::Storage(Box::new(storage)))?
                }
                0x97 | 0x98 => return bad("it needs buffers from outside the file"),
                b'P' | 0x82..=0x84 => {
                    return bad(format!("the operation 0x{op:02x} (references to a registry outside the file) is refused"));
                }
                _ => return bad(format!("0x{op:02x} is no operation of a pickle: the file is corrupt or not a pickle")),
            }
        }
        self.graph.root = self.pop()?;
        self.graph.end = self.at;
        Ok(())
    }

    fn long(&mut self, len: usize) -> Result<()> {
        let range = self.range(len)?;
        let bytes = &self.graph.input[range.clone()];
        if len > 8 {
            return self.push(Node::Long(range));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut full = [if negative { 0xff } else { 0 }; 8];
        full[..len].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(full)))
    }
}

/// Bytes of the count (a length, an index or a small number) that follows an operation.
fn width(op: u8) -> usize {
    match op {
        b'M' => 2,
        b'J' | 0x8b | b'X' | b'T' | b'B' | b'r' | b'j' => 4,
        0x8d | 0x8e | 0x96 => 8,
        _ => 1,
    }
}

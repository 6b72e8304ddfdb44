//! What the names in a pickle may mean: the closed list of classes and functions that checkpoints of this field use, and
//! what "calling" each of them yields. Nothing here runs code of the file; a call builds one plain value or is refused.
//!
//! Sources: `torch/_utils.py` (the `_rebuild_*` functions), `torch/serialization.py` (persistent ids), numpy's
//! `ndarray.__reduce__`.

use super::graph::{Array, Blob, Id, Node, Storage, Unknown};
use super::pickle::{Machine, bad};
use super::view::{Element, View, element_count};
use crate::Result;

/// A name on the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Class {
    Dict,
    /// `defaultdict`: its first argument is the factory, not content.
    DefaultDict,
    Sequence,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
    Namespace,
    /// `copyreg._reconstructor(class, base, state)`.
    Reconstructor,
    Object,
    Encode,
    NumpyArray,
    NumpyReconstruct,
    NumpyScalar,
    NumpyDtype,
    /// Not on the list; only where records are allowed, or harmless as a mere name (torch.float32).
    Record(String),
}

/// The meaning of `module.name`.
///
/// Errors: the name is not on the list and `unknown` says to refuse it.
pub(super) fn lookup(module: &str, name: &str, unknown: Unknown) -> Result<Class> {
    Ok(match (module, name) {
        ("collections", "OrderedDict" | "Counter") | ("builtins" | "__builtin__", "dict") => Class::Dict,
        ("collections", "defaultdict") => Class::DefaultDict,
        ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") | ("torch", "Size") => Class::Sequence,
        ("builtins" | "__builtin__", "object") => Class::Object,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Class::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Class::RebuildParameter,
        ("argparse", "Namespace") | ("types", "SimpleNamespace") => Class::Namespace,
        ("copyreg" | "copy_reg", "_reconstructor") => Class::Reconstructor,
        ("_codecs", "encode") => Class::Encode,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Class::NumpyReconstruct,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Class::NumpyScalar,
        ("numpy", "ndarray") => Class::NumpyArray,
        ("numpy", "dtype") => Class::NumpyDtype,
        ("torch", class) if class.ends_with("Storage") => match Element::of_storage(class) {
            Some(element) => Class::Storage(element),
            None => return bad(format!("it holds a torch.{class}, which is not read: convert that tensor to another type in Python")),
        },
        ("torch", "float32" | "float64" | "float16" | "bfloat16" | "int64" | "int32" | "int16" | "int8" | "uint8" | "bool" | "device") => {
            Class::Record(format!("torch.{name}"))
        }
        (module, _) if module.starts_with("__torch__") => {
            return bad("it is a TorchScript program, not a checkpoint: save its state_dict() in Python");
        }
        _ if unknown == Unknown::Record => Class::Record(short(&format!("{module}.{name}"))),
        _ => {
            return bad(format!(
                "it names the Python object \"{}\", which a checkpoint of tensors does not need; refused, nothing was run",
                short(&format!("{module}.{name}"))
            ));
        }
    })
}

/// A name of the file, made fit for a message.
fn short(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}

/// The object that a "call" of `class` with the tuple `args` stands for.
pub(super) fn call(m: &mut Machine, class: Id, args: Id) -> Result<Id> {
    let Node::Class(class) = m.graph.node(class) else { return bad("it calls something that is not a class: the file is corrupt") };
    let class = class.clone();
    let Node::Tuple(items) = m.graph.node(args) else { return bad("a call has no arguments: the file is corrupt") };
    let first = items.first().copied();
    // Every call of the list has a handful of arguments; a record keeps its tuple unopened.
    let items: Vec<Id> = items.iter().take(8).copied().collect();
    match (class, first) {
        (Class::Dict, None) | (Class::DefaultDict | Class::Namespace, _) => m.add(Node::Dict(Vec::new())),
        (Class::Dict, Some(from)) => {
            let pairs = match m.graph.node(from) {
                Node::Dict(pairs) => pairs.clone(),
                Node::List(list) | Node::Tuple(list) => {
                    let pair = |id: &Id| match m.graph.node(*id) {
                        Node::Tuple(kv) | Node::List(kv) if kv.len() == 2 => Some((kv[0], kv[1])),
                        _ => None,
                    };
                    match list.iter().map(pair).collect() {
                        Some(pairs) => pairs,
                        None => return bad("a dictionary is made of something that is not pairs: the file is corrupt"),
                    }
                }
                _ => return bad("a dictionary is made of something that is not a list: the file is corrupt"),
            };
            m.copies(pairs.len())?;
            m.add(Node::Dict(pairs))
        }
        (Class::Sequence, None) => m.add(Node::List(Vec::new())),
        (Class::Sequence, Some(from)) => {
            let list = match m.graph.node(from) {
                Node::List(list) | Node::Tuple(list) => list.clone(),
                _ => return bad("a list is made of something that is not a list: the file is corrupt"),
            };
            m.copies(list.len())?;
            m.add(Node::List(list))
        }
        (Class::RebuildTensor, _) => {
            let view = tensor(m, &items)?;
            m.add(Node::Tensor(Box::new(view)))
        }
        (Class::RebuildParameter, Some(data)) if matches!(m.graph.node(data), Node::Tensor(_)) => Ok(data),
        (Class::Reconstructor, Some(of)) => match m.graph.node(of) {
            Node::Class(Class::Namespace) => m.add(Node::Dict(Vec::new())),
            Node::Class(Class::Record(name)) => {
                let class = name.clone();
                m.add(Node::Object { class, parts: vec![args] })
            }
            _ => bad("it reconstructs an object of a class that is not known"),
        },
        (Class::Encode, Some(text)) => {
            let Some(text) = m.graph.text(text) else { return bad("it encodes something that is not a text: the file is corrupt") };
            // Python 3 writes bytes this way under protocol 2: each character is one byte.
            let bytes: Option<Box<[u8]>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            let Some(bytes) = bytes else { return bad("bytes are written as a text with characters beyond 255: the file is corrupt") };
            m.copies(bytes.len())?;
            m.add(Node::Bytes(Blob::Made(bytes)))
        }
        (Class::NumpyReconstruct, _) => m.add(Node::EmptyArray),
        (Class::NumpyDtype, Some(code)) => {
            let Some(code) = m.graph.text(code) else { return bad("a numpy type is not named by a text: the file is corrupt") };
            let (big, code) = (code.starts_with('>'), code.trim_start_matches(['<', '>', '=', '|']));
            let code = code.chars().take(16).collect();
            m.add(Node::Dtype(code, big))
        }
        (Class::NumpyScalar, Some(dtype)) => {
            let Some(data) = items.get(1) else { return bad("a numpy number has no value: the file is corrupt") };
            let array = array(m, &[], dtype, false, *data)?;
            m.add(array)
        }
        (Class::Record(class), _) => m.add(Node::Object { class, parts: vec![args] }),
        _ => bad("it calls a class in a way that no checkpoint needs; refused, nothing was run"),
    }
}

/// Gives `object` its state: the attributes of a record, the content of a numpy array or a namespace.
pub(super) fn build(m: &mut Machine, object: Id, state: Id) -> Result<()> {
    let built = match m.graph.node(object) {
        Node::EmptyArray => {
            let Node::Tuple(items) = m.graph.node(state) else { return bad("a numpy array has no state: the file is corrupt") };
            let &[_, shape, dtype, fortran, data] = &items[..] else {
                return bad("a numpy array's state is not of five parts: the file is corrupt");
            };
            let Some(shape) = ints(m, shape) else { return bad("a numpy array's shape is not whole numbers: the file is corrupt") };
            let fortran = matches!(m.graph.node(fortran), Node::Bool(true));
            array(m, &shape, dtype, fortran, data)?
        }
        Node::Dtype(code, _) => {
            let Node::Tuple(items) = m.graph.node(state) else { return bad("a numpy type has no state: the file is corrupt") };
            let big = items.get(1).is_some_and(|id| m.graph.text(*id) == Some(">"));
            if items.get(3).is_some_and(|names| !matches!(m.graph.node(*names), Node::None)) {
                return bad("a numpy array of records is not read");
            }
            Node::Dtype(code.clone(), big)
        }
        // An empty dictionary whose state is a dictionary: a namespace gets its fields. A state dict gets `_metadata`,
        // which is about its modules and holds no weights.
        Node::Dict(items) => {
            let Node::Dict(fields) = m.graph.node(state) else { return Ok(()) };
            let about = fields.iter().all(|(k, _)| m.graph.text(*k).is_some_and(|k| k.starts_with('_')));
            if about || !items.is_empty() {
                return Ok(());
            }
            let fields = fields.clone();
            m.copies(fields.len())?;
            Node::Dict(fields)
        }
        Node::Object { class, parts } => {
            let (class, mut parts) = (class.clone(), parts.clone());
            m.copies(parts.len())?;
            parts.push(state);
            Node::Object { class, parts }
        }
        // Attributes of a tensor: nothing that a checkpoint needs.
        Node::Tensor(_) => return Ok(()),
        _ => return bad("it sets the state of something that has none; refused, nothing was run"),
    };
    m.graph.nodes[object as usize] = built;
    Ok(())
}

fn ints(m: &Machine, id: Id) -> Option<Vec<i64>> {
    match m.graph.node(id) {
        // Longer than any shape: View::new names the fault.
        Node::Tuple(items) | Node::List(items) => items.iter().take(64).map(|id| int(m, *id)).collect(),
        _ => None,
    }
}

fn int(m: &Machine, id: Id) -> Option<i64> {
    match m.graph.node(id) {
        Node::Int(n) => Some(*n),
        _ => None,
    }
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`.
fn tensor(m: &Machine, args: &[Id]) -> Result<View> {
    let &[storage, offset, size, stride, ..] = args else { return bad("a tensor has too few arguments: the file is corrupt") };
    let Node::Storage(storage) = m.graph.node(storage) else { return bad("a tensor has no storage: the file is corrupt") };
    match (int(m, offset), ints(m, size), ints(m, stride)) {
        (Some(offset), Some(size), Some(stride)) => View::new(&storage.key, storage.element, storage.window, offset, &size, &stride),
        _ => bad("a tensor's offset, shape or strides are not whole numbers of 64 bits: the file is corrupt"),
    }
}

/// The persistent id `('storage', class, key, location, count, view)`. The location (cpu, cuda:0) does not matter here.
pub(super) fn storage(m: &mut Machine, id: Id) -> Result<Storage> {
    let wrong = |what: &str| bad(format!("a persistent id {what}: the file is corrupt, or not a PyTorch checkpoint"));
    let Node::Tuple(items) = m.graph.node(id) else { return wrong("is not a tuple") };
    let (tag, class, key, count, view) = match items[..] {
        [tag, class, key, _, count] => (tag, class, key, count, None),
        [tag, class, key, _, count, view] => (tag, class, key, count, Some(view)),
        _ => return wrong("does not have five or six parts"),
    };
    if m.graph.text(tag) != Some("storage") {
        return wrong("does not say \"storage\"");
    }
    let Node::Class(Class::Storage(element)) = m.graph.node(class) else { return wrong("names no storage class") };
    let element = *element;
    let Some(key) = m.graph.text(key).map(str::to_string) else { return wrong("has no key") };
    if key.is_empty() || key.len() > 64 || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return bad(format!("the storage key \"{}\" is no plain name: refused", short(&key)));
    }
    let Some(len) = int(m, count).and_then(|n| usize::try_from(n).ok()) else { return wrong("has no element count") };
    if len.checked_mul(element.size()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return wrong("announces more elements than memory has");
    }
    let window = match view.map(|v| m.graph.node(v)) {
        None | Some(Node::None) => (0, len),
        // Torch before 0.4: (key of the view, its offset, its length).
        Some(Node::Tuple(parts)) => {
            let numbers = (parts.get(1).and_then(|v| int(m, *v)), parts.get(2).and_then(|v| int(m, *v)));
            let (Some(start), Some(size)) = numbers else { return wrong("has a view without numbers") };
            match (usize::try_from(start), usize::try_from(size)) {
                (Ok(start), Ok(size)) if start.checked_add(size).is_some_and(|end| end <= len) => (start, size),
                _ => return wrong("has a view that reaches outside its storage"),
            }
        }
        Some(_) => return wrong("has a view that is not a tuple"),
    };
    let known = m.graph.storages.entry(key.clone()).or_insert((element, len));
    if *known != (element, len) {
        return wrong(&format!("gives storage \"{key}\" two types or lengths"));
    }
    Ok(Storage { key, element, window })
}

/// A numpy array from its shape, type and data.
fn array(m: &mut Machine, shape: &[i64], dtype: Id, fortran: bool, data: Id) -> Result<Node> {
    let Node::Dtype(code, big_endian) = m.graph.node(dtype).clone() else { return bad("a numpy array has no type: the file is corrupt") };
    let Some(shape) = shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>() else {
        return bad(format!("a numpy array has a negative size: {shape:?}"));
    };
    if shape.len() > 16 {
        return bad("a numpy array has more than 16 dimensions");
    }
    let count = element_count(&shape)?;
    let Some(element) = Element::of_numpy(&code) else {
        // An array of Python objects: its data is a list.
        return match (code.as_str(), m.graph.node(data)) {
            ("O" | "O8" | "O4", Node::List(items)) if items.len() == count => {
                let items = items.clone();
                m.copies(items.len())?;
                Ok(Node::List(items))
            }
            ("O" | "O8" | "O4", _) => bad("a numpy array of objects has not as many as its shape says: the file is corrupt"),
            _ => bad(format!("a numpy array of type \"{}\" is not read", short(&code))),
        };
    };
    let blob = match m.graph.node(data) {
        Node::Bytes(blob) | Node::Text(blob) => blob.clone(),
        _ => return bad("a numpy array has no bytes: the file is corrupt"),
    };
    let bytes = m.graph.blob(&blob).len();
    if count.checked_mul(element.size()) != Some(bytes) {
        return bad(format!("a numpy array of shape {shape:?} and type {code} has {bytes} bytes: the file is corrupt"));
    }
    if let Blob::Made(_) = blob {
        m.copies(bytes)?;
    }
    Ok(Node::Array(Box::new(Array { element, shape, fortran, big_endian, data: blob })))
}

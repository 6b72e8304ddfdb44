//! numpy's array files: plain arrays, and the object arrays that hold one pickled dictionary (boundaries of In-Domain).
//!
//! Source: the format specification in numpy's `lib/format.py`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, bare, note_non_finite};
use super::graph::{Node, Unknown};
use super::pickle;
use super::source::{Format, Source};
use super::tree::{BARE, Value};
use super::view::{Element, element_count};
use crate::{Error, Result};

/// Larger than any boundary or latent file; weights do not come as .npy.
const MAX_BYTES: u64 = 1 << 30;

/// What the header of an array file says.
#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

pub(super) fn open(source: &Source) -> Result<Checkpoint> {
    if source.len > MAX_BYTES {
        return Err(Error::corrupt(format!("a numpy file of {} bytes (at most {MAX_BYTES} are read)", source.len)));
    }
    let version = source.read_at(6, 2)?[0];
    let (len, start) = match version {
        1 => (source.read_at(8, 2)?.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)), 10u64),
        2 | 3 => (source.read_at(8, 4)?.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b)), 12),
        _ => return Err(Error::corrupt(format!("numpy format version {version} is not known"))),
    };
    if len > 1 << 20 {
        return Err(Error::corrupt(format!("a numpy header of {len} bytes: the file is corrupt")));
    }
    let text = source.read_at(start, len)?;
    let header = std::str::from_utf8(&text).ok().and_then(parse_header);
    let Some(Header { descr, fortran, shape }) = header else {
        return Err(Error::corrupt(format!("its numpy header is not understood: {}", super::source::printable(&text))));
    };
    let data_at = start + len as u64;
    let rest = (source.len - data_at) as usize;
    let code = descr.trim_start_matches(['<', '>', '=', '|']);
    if code == "O" {
        let bytes = source.read_at(data_at, rest)?;
        let graph = pickle::read(&bytes, 0, Unknown::Refuse)?;
        // np.save of a dictionary: an array of no dimensions around one object.
        let root = match graph.node(graph.root) {
            Node::List(items) if shape.is_empty() && items.len() == 1 => items[0],
            _ => graph.root,
        };
        return bare(Format::Npy, &graph, root, source.len);
    }
    let Some(element) = Element::of_numpy(code) else {
        return Err(Error::corrupt(format!("numpy type \"{}\" is not read", descr.escape_debug())));
    };
    let want = element_count(&shape)?.checked_mul(element.size());
    if want != Some(rest) {
        return Err(Error::corrupt(format!(
            "an array of shape {shape:?} and type {descr} does not have {rest} bytes of data: the file is truncated or corrupt"
        )));
    }
    let bytes = source.read_at(data_at, rest)?;
    let bytes = row_major(&bytes, element, &shape, fortran, descr.starts_with('>'));
    let mut warnings = Vec::new();
    note_non_finite(&mut warnings, BARE, element.non_finite(&bytes));
    Ok(Checkpoint {
        format: Format::Npy,
        tree: Value::Tensor(BARE.into()),
        tensors: BTreeMap::from([(BARE.to_string(), element.tensor(&bytes, &shape)?)]),
        metadata: BTreeMap::new(),
        warnings,
    })
}

/// Elements little-endian and row-major. `bytes` holds exactly the elements of `shape`.
pub(super) fn row_major<'b>(bytes: &'b [u8], element: Element, shape: &[usize], fortran: bool, big_endian: bool) -> Cow<'b, [u8]> {
    let size = element.size();
    let mut out = Cow::Borrowed(bytes);
    if big_endian && size > 1 {
        out.to_mut().chunks_exact_mut(size).for_each(|number| number.reverse());
    }
    if fortran && shape.len() > 1 && !bytes.is_empty() {
        let mut ordered = Vec::with_capacity(out.len());
        let mut index = vec![0; shape.len()];
        for _ in 0..bytes.len() / size {
            let at = shape.iter().zip(&index).rev().fold(0, |at, (n, i)| at * n + i);
            ordered.extend_from_slice(&out[at * size..(at + 1) * size]);
            for d in (0..shape.len()).rev() {
                index[d] += 1;
                if index[d] < shape[d] {
                    break;
                }
                index[d] = 0;
            }
        }
        out = ordered.into();
    }
    out
}

/// The header is the text of a Python dictionary with exactly the keys descr, fortran_order and shape.
fn parse_header(text: &str) -> Option<Header> {
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.trim_start();
    while !rest.starts_with('}') {
        let (key, after) = quoted(rest)?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (value, after) = quoted(after)?;
                descr = Some(value.to_string());
                after
            }
            "fortran_order" => {
                let (value, after) =
                    after.strip_prefix("True").map(|a| (true, a)).or_else(|| after.strip_prefix("False").map(|a| (false, a)))?;
                fortran = Some(value);
                after
            }
            "shape" => {
                let (inside, after) = after.strip_prefix('(')?.split_once(')')?;
                let sizes = inside.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.trim_end_matches('L').parse().ok());
                shape = Some(sizes.collect::<Option<Vec<usize>>>().filter(|s| s.len() <= 16)?);
                after
            }
            _ => return None,
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(Header { descr: descr?, fortran: fortran?, shape: shape? })
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

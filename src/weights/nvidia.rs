//! The networks in NVIDIA's TensorFlow-era pickles (PGGAN, StyleGAN, StyleGAN2: a tuple of G, D and the averaged Gs).
//!
//! Each is an object of `dnnlib.tflib.network.Network` (PGGAN: `tfutil.Network`) whose state carries the source code of the network as
//! text, which is never looked at, and `variables`, a list of (name, numpy array). Read as inert records, the arrays get the names
//! `G.<variable>`, `D.<variable>`, `Gs.<variable>`; their layouts stay TensorFlow's (convolutions are HWIO).
//!
//! Source: `dnnlib/tflib/network.py` of NVlabs/stylegan, `Network.__getstate__`.

use std::collections::BTreeMap;

use super::checkpoint::Checkpoint;
use super::tree::Value;

/// The names of a tuple of networks by its length.
fn names(count: usize) -> Vec<String> {
    match count {
        1 => vec!["Gs".into()],
        3 => vec!["G".into(), "D".into(), "Gs".into()],
        n => (0..n).map(|i| format!("network{i}")).collect(),
    }
}

/// The (variable, tensor) pairs of a record of a network.
fn variables(record: &Value) -> Option<Vec<(&str, &str)>> {
    let Value::Object(class, parts) = record else { return None };
    if !class.ends_with(".Network") {
        return None;
    }
    let list = parts.iter().find_map(|part| part.get("variables"))?;
    let Value::List(pairs) = list else { return None };
    pairs.iter().map(pair).collect()
}

/// A variable's name and the name of its tensor.
fn pair(value: &Value) -> Option<(&str, &str)> {
    match value {
        Value::List(items) => match &items[..] {
            [Value::Text(name), Value::Tensor(tensor)] => Some((name, tensor)),
            _ => None,
        },
        _ => None,
    }
}

/// Gives the arrays of NVIDIA's networks their variables' names. A file of another kind stays as it is.
pub(super) fn rename(checkpoint: &mut Checkpoint) {
    let one = std::slice::from_ref(&checkpoint.tree);
    let networks = match &checkpoint.tree {
        Value::List(items) => &items[..],
        _ => one,
    };
    let Some(found) = networks.iter().map(variables).collect::<Option<Vec<_>>>().filter(|f| !f.is_empty()) else { return };
    let mut renamed = BTreeMap::new();
    for (network, pairs) in names(found.len()).iter().zip(found) {
        for (variable, tensor) in pairs {
            let Some(tensor) = checkpoint.tensors.get(tensor) else { return };
            // A name that occurs twice would hide an array: then nothing is renamed.
            if renamed.insert(format!("{network}.{variable}"), tensor.clone()).is_some() {
                return;
            }
        }
    }
    checkpoint.tensors = renamed;
}

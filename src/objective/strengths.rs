//! z_n, the noise strengths of E and G, paired by mirrored place in the network: the first noise of E's block at resolution r
//! with the first of G's block at r, the second of E's block at r, which stands between r and r/2, with the second of G's
//! block at r/2. Where a generator has one layer at 4x4 (StyleGANv2) that layer counts as its second. What has no
//! counterpart stays out.

use candle_core::{Result, Tensor};

use crate::generators::NoiseSite;
use crate::inverters::mtv::Strength;

/// For each strength of E the index of its site in G.
fn pairs(e: &[Strength], sites: &[NoiseSite]) -> Vec<Option<usize>> {
    let site = |strength: &Strength| {
        let resolution = if strength.place == 1 { strength.resolution } else { strength.resolution / 2 };
        let at: Vec<usize> = (0..sites.len()).filter(|&i| sites[i].resolution == resolution).collect();
        match (strength.place, &at[..]) {
            (1, [first, _]) => Some(*first),
            (2, [.., last]) => Some(*last),
            _ => None,
        }
    };
    e.iter().map(site).collect()
}

/// (z_n, z_n'), each [1, K]: the paired strengths of G (a constant) and of E, concatenated in E's order, one row for all
/// samples. Where G has one strength for all channels (StyleGANv2) it is repeated per channel of E. None where nothing pairs.
///
/// Errors: paired strengths of different widths.
pub fn paired_strengths(e: &[Strength], sites: &[NoiseSite], g: &[Tensor]) -> Result<Option<(Tensor, Tensor)>> {
    let (mut target, mut pred) = (Vec::new(), Vec::new());
    for (strength, site) in e.iter().zip(pairs(e, sites)) {
        let Some(site) = site else { continue };
        let own = strength.weight.flatten_all()?;
        target.push(fitted(&g[site].detach().flatten_all()?, own.dim(0)?, strength.resolution)?);
        pred.push(own);
    }
    if pred.is_empty() {
        return Ok(None);
    }
    Ok(Some((Tensor::cat(&target, 0)?.unsqueeze(0)?, Tensor::cat(&pred, 0)?.unsqueeze(0)?)))
}

/// The strengths with which G decodes z_n': E's where one is paired, G's own elsewhere, in G's order.
pub fn decoded_strengths(e: &[Strength], sites: &[NoiseSite], g: &[Tensor]) -> Vec<Tensor> {
    let mut out = g.to_vec();
    for (strength, site) in e.iter().zip(pairs(e, sites)) {
        if let Some(site) = site {
            out[site] = strength.weight.clone();
        }
    }
    out
}

/// The strengths of one site of G for `width` channels.
fn fitted(theirs: &Tensor, width: usize, resolution: usize) -> Result<Tensor> {
    if theirs.dim(0)? == width {
        return Ok(theirs.clone());
    }
    let first = theirs.narrow(0, 0, 1)?;
    let spread = theirs.broadcast_sub(&first)?.abs()?.max_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
    if spread > 0.0 {
        candle_core::bail!("noise at {resolution} px: the generator has {} strengths, the encoder {width}", theirs.dim(0)?)
    }
    first.broadcast_as(width)?.contiguous()
}

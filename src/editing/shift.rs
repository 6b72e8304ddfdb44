//! w' = w + alpha d on chosen rows of w.
//!
//! Sources: Section V.D of the paper ("only partial style layers need to be used"); `interpolate` and `manipulate` in genforce/interfacegan
//! and genforce/idinvert_pytorch.

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// Which rows of w are edited: "all", or numbers and ranges as in "0-3,5" (the first row is 0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rows {
    All,
    Some(Vec<usize>),
}

impl Rows {
    pub fn contains(&self, row: usize) -> bool {
        match self {
            Rows::All => true,
            Rows::Some(rows) => rows.contains(&row),
        }
    }

    /// Errors: a row that this many rows do not have.
    pub fn check(&self, rows: usize) -> std::result::Result<(), String> {
        match self {
            Rows::Some(chosen) if chosen.iter().any(|r| *r >= rows) => {
                Err(format!("the rows \"{self}\" are not all there: this w has the rows 0 to {}", rows.saturating_sub(1)))
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for Rows {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Rows::All);
        }
        let bad = || format!("\"{text}\" is no choice of rows: write \"all\", or rows and ranges as in \"0-3,5\"");
        let mut rows = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n < 64).ok_or_else(bad);
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(bad());
            }
            rows.extend((first..=last).filter(|r| !rows.contains(r)).collect::<Vec<_>>());
        }
        rows.sort_unstable();
        Ok(Rows::Some(rows))
    }
}

impl From<Rows> for String {
    fn from(rows: Rows) -> String {
        rows.to_string()
    }
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rows::Some(rows) = self else { return f.write_str("all") };
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for &row in rows {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == row => *last = row,
                _ => parts.push((row, row)),
            }
        }
        let text: Vec<String> = parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
        f.write_str(&text.join(","))
    }
}

/// `w` [n, rows, dim] plus `alpha` times `direction` [1 or rows, dim] on the chosen rows; `strength` [rows] scales the shift of each row
/// (where the generator truncates, a row that it pulls to the mean moves by that much less).
pub fn shift(w: &Tensor, direction: &Tensor, alpha: f64, rows: &Rows, strength: Option<&[f64]>) -> Result<Tensor> {
    let (_, count, dim) = w.dims3()?;
    if let Err(message) = rows.check(count) {
        bail!("{message}")
    }
    let (directions, direction_dim) = direction.dims2()?;
    if direction_dim != dim || (directions != 1 && directions != count) {
        bail!("a direction of shape {:?} does not fit a w of {count} rows of {dim}", direction.dims())
    }
    let amount = |row: usize| if rows.contains(row) { alpha * strength.map_or(1.0, |s| s.get(row).copied().unwrap_or(1.0)) } else { 0.0 };
    let amounts: Vec<f32> = (0..count).map(|row| amount(row) as f32).collect();
    let amounts = Tensor::from_vec(amounts, (count, 1), w.device())?.to_dtype(w.dtype())?;
    w.broadcast_add(&amounts.broadcast_mul(&direction.to_dtype(w.dtype())?)?.unsqueeze(0)?)
}

/// The code `w` [1, dim] moved along the unit vector `direction` [1, dim] to each of the signed distances from the boundary through the
/// origin: [steps, dim]. (InterFaceGAN ignores the boundary's intercept here; codes of several rows it moves by alpha instead, [`shift`].)
pub fn place(w: &Tensor, direction: &Tensor, distances: &[f64]) -> Result<Tensor> {
    let now = (w * direction)?.sum_keepdim(1)?;
    let distances = distances.iter().map(|d| *d as f32).collect::<Vec<_>>();
    let count = distances.len();
    let move_by = Tensor::from_vec(distances, (count, 1), w.device())?.to_dtype(w.dtype())?.broadcast_sub(&now)?;
    w.broadcast_add(&move_by.broadcast_mul(direction)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_written() {
        for (text, back) in [("all", "all"), ("0-3", "0-3"), ("5, 0-2 ,1", "0-2,5"), ("7", "7")] {
            assert_eq!(Rows::try_from(text.to_string()).unwrap().to_string(), back);
        }
        for bad in ["", "3-1", "a", "1-", "-1", "1--2", "99", "0-3;5"] {
            assert!(Rows::try_from(bad.to_string()).is_err(), "{bad}");
        }
        assert!(Rows::try_from("0-9".to_string()).unwrap().check(9).is_err());
    }
}

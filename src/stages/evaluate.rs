//! Inverts, decodes and scores.

use super::{StageContext, EvaluateSpec};
use crate::{Error, Result};

pub fn run(_spec: &EvaluateSpec, _context: &mut StageContext) -> Result<()> {
    Err(Error::internal("this stage is not written yet"))
}

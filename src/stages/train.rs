//! Algorithm 1.

use super::{StageContext, TrainSpec};
use crate::{Error, Result};

pub fn run(_spec: &TrainSpec, _context: &mut StageContext) -> Result<()> {
    Err(Error::internal("this stage is not written yet"))
}

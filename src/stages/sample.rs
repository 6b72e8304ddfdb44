//! Draws the evaluation images.

use super::{StageContext, SampleSpec};
use crate::{Error, Result};

pub fn run(_spec: &SampleSpec, _context: &mut StageContext) -> Result<()> {
    Err(Error::internal("this stage is not written yet"))
}

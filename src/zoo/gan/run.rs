//! A training from here to its end: what is reported, saved, sampled and measured on the way.

use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;

use super::Trainer;
use crate::Result;
use crate::generators::{Synthesis, draw_noise};
use crate::random::Stream;
use crate::zoo::adversarial::Losses;
use crate::zoo::curve;
use crate::zoo::players::sites;
use crate::zoo::sheet;

impl Trainer {
    /// Images `[ids, 3, r, r]` of the averaged generator at the present stage; z and noise are fixed by `ids`, the class of a conditional
    /// one is id modulo their number. Batch norms see these images alone.
    pub fn samples(&self, ids: &[u64]) -> candle_core::Result<Tensor> {
        let (stage, layout) = (self.stage(), self.average.layout());
        let z = Stream::new(self.recipe.seed, "zoo/sample-z").normal_rows(ids, &[layout.z_dim], &self.device)?;
        let noise = draw_noise(&sites(layout, stage), &Stream::new(self.recipe.seed, "zoo/sample-noise"), ids, &self.device)?;
        let classes: Vec<u32> = ids.iter().map(|id| id.checked_rem(layout.classes as u64).unwrap_or(0) as u32).collect();
        let classes = (layout.classes > 0).then(|| Tensor::from_vec(classes, ids.len(), &self.device)).transpose()?;
        let with = Synthesis { noise: Some(&noise), stage: Some(stage), ..Default::default() };
        Ok(self.average.synthesize_to_train(&self.average.map(&z, classes.as_ref())?, &with)?.detach())
    }

    /// Writes 8 rows of samples into `folder`, a column for each class where there are classes.
    pub fn save_samples(&self, folder: &Path) -> Result<()> {
        let columns = match self.average.layout().classes {
            0 => 8,
            classes => classes,
        };
        let images = self.samples(&(0..8 * columns as u64).collect::<Vec<_>>())?;
        let resolution = images.dim(3)?;
        let sheet = sheet::of_tensor(&images, columns, (128 / resolution).max(1))?;
        sheet::save(&folder.join(format!("samples-{:07}-{resolution}px.png", self.shown)), &sheet)
    }

    /// Trains to the end of the schedule; saves every minute, samples every `sample_every` seconds, reports every 20 seconds. At each point
    /// of the curve `distance` measures the generator, where it is worth that; this does not count as time of training.
    pub fn run(
        &mut self,
        folder: &Path,
        sample_every: f64,
        distance: impl Fn(&Trainer) -> Result<Option<f64>>,
        mut report: impl FnMut(&str),
    ) -> Result<()> {
        let (before, mut aside) = (self.seconds, 0.0);
        let start = Instant::now();
        let (mut saved, mut sampled, mut reported) = (start, start, start);
        let (mut sum, mut steps, mut penalty) = (Losses::default(), 0u64, f64::NAN);
        let mut reciprocity = None;
        while !self.done() {
            let shown = self.shown;
            let losses = self.step()?;
            self.seconds = before + start.elapsed().as_secs_f64() - aside;
            if curve::due(shown, self.shown, self.recipe.total()) {
                let now = Instant::now();
                let distance = distance(self)?;
                self.meter.point(self.shown, distance.map(|value| (curve::FRECHET, value)));
                aside += now.elapsed().as_secs_f64();
            }
            sum.real += losses.real;
            sum.fake += losses.fake;
            penalty = losses.penalty.unwrap_or(penalty);
            reciprocity = losses.reciprocity.or(reciprocity);
            steps += 1;
            if reported.elapsed().as_secs_f64() > 20.0 {
                let rate = (steps * self.recipe.batch as u64) as f64 / reported.elapsed().as_secs_f64();
                let (count, total) = (steps as f64, self.recipe.total());
                let penalised = self.recipe.objective.penalised().map_or(String::new(), |what| format!("  {what} {penalty:.3}"));
                let reciprocity = reciprocity.map_or(String::new(), |value| format!("  (E(G(w)) - w)^2 {value:.4}"));
                report(&format!(
                    "{:7.0} s  {:7} of {total} images  {:2} px  {rate:6.1} img/s  D(real) {:6.2}  D(fake) {:6.2}{penalised}{reciprocity}",
                    self.seconds,
                    self.shown,
                    self.resolution(),
                    sum.real / count,
                    sum.fake / count,
                ));
                (reported, sum, steps) = (Instant::now(), Losses::default(), 0);
            }
            if saved.elapsed().as_secs_f64() > 60.0 {
                self.save(folder)?;
                saved = Instant::now();
            }
            if sampled.elapsed().as_secs_f64() > sample_every {
                self.save_samples(folder)?;
                sampled = Instant::now();
            }
        }
        self.save(folder)?;
        self.save_samples(folder)
    }
}

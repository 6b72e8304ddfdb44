//! The judges: small networks that read what is known of a picture off it. They never take part in another network's training. The
//! last hidden layer is the feature space of `fd-mini` (a Fréchet distance, not FID) and of the diversity on the model cards.

use candle_core::{Result, Tensor};

use super::source::Label;
use super::supervised::Task;
use super::{faces, objects};
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;
const WIDTHS: [usize; 5] = [24, 48, 64, 96, 96];

/// Weight of the cross-entropy beside the mean squared error of the factors.
const CLASS_WEIGHT: f64 = 0.3;

/// Length of the feature vector.
pub const FEATURES: usize = 128;

/// A weight `[outputs, inputs]` and its bias, by the names of `p`.
pub fn linear(p: &Params, name: &str, inputs: usize, outputs: usize, gain: f64) -> Result<(Tensor, Tensor)> {
    let p = p.pp(name);
    let init = Init::Normal((gain / inputs as f64).sqrt());
    Ok((p.get("weight", (outputs, inputs), init)?, p.get("bias", outputs, Init::Const(0.0))?))
}

/// Five 3x3 convolutions, all but the first with stride 2, and a linear layer, for pictures of 64 px in [-1, 1].
pub struct Trunk {
    convs: Vec<(Tensor, Tensor)>,
    hidden: (Tensor, Tensor),
}

impl Trunk {
    pub fn new(p: &Params) -> Result<Self> {
        let mut convs = Vec::new();
        let mut inputs = 3;
        for (i, width) in WIDTHS.into_iter().enumerate() {
            let p = p.pp("conv").pp(i);
            let init = Init::Normal((2.0 / (9 * inputs) as f64).sqrt());
            convs.push((p.get("weight", (width, inputs, 3, 3), init)?, p.get("bias", width, Init::Const(0.0))?));
            inputs = width;
        }
        Ok(Trunk { convs, hidden: linear(p, "hidden", inputs * 16, FEATURES, 2.0)? })
    }

    /// Pictures `[n, 3, 64, 64]` to features `[n, 128]`.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.clone();
        for (i, (weight, bias)) in self.convs.iter().enumerate() {
            x = ops::leaky_relu(&ops::conv2d(&x, weight, Some(bias), if i == 0 { 1 } else { 2 }, 1)?, SLOPE)?;
        }
        ops::leaky_relu(&ops::linear(&x.flatten_from(1)?, &self.hidden.0, Some(&self.hidden.1))?, SLOPE)
    }
}

/// A trunk and a linear layer.
pub struct Judge {
    trunk: Trunk,
    /// Of a source with classes: their number; their logits come first.
    classes: usize,
    outputs: (Tensor, Tensor),
}

impl Judge {
    /// The judge of the faces: 25 factors.
    pub fn of_faces(p: &Params) -> Result<Self> {
        Self::new(p, 0, faces::FACTORS.len())
    }

    /// The judge of the objects: ten classes and 13 factors.
    pub fn of_objects(p: &Params) -> Result<Self> {
        Self::new(p, objects::CLASSES.len(), objects::FACTORS.len())
    }

    fn new(p: &Params, classes: usize, factors: usize) -> Result<Self> {
        Ok(Judge { trunk: Trunk::new(p)?, classes, outputs: linear(p, "factors", FEATURES, classes + factors, 1.0)? })
    }

    /// Pictures `[n, 3, 64, 64]` to features `[n, 128]`.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        self.trunk.features(images)
    }

    fn outputs(&self, features: &Tensor) -> Result<Tensor> {
        ops::linear(features, &self.outputs.0, Some(&self.outputs.1))
    }

    /// Features to the factors `[n, factors]` in the order of the source.
    pub fn factors(&self, features: &Tensor) -> Result<Tensor> {
        let outputs = self.outputs(features)?;
        outputs.narrow(1, self.classes, outputs.dim(1)? - self.classes)
    }

    /// Features to the most likely class, 0 where there are no classes.
    pub fn classes(&self, features: &Tensor) -> Result<Vec<u32>> {
        if self.classes == 0 {
            return Ok(vec![0; features.dim(0)?]);
        }
        self.outputs(features)?.narrow(1, 0, self.classes)?.contiguous()?.argmax(1)?.to_vec1()
    }

    /// Features to the probability of the most likely class, 1 where there are no classes.
    pub fn certainties(&self, features: &Tensor) -> Result<Vec<f32>> {
        if self.classes == 0 {
            return Ok(vec![1.0; features.dim(0)?]);
        }
        let logits = self.outputs(features)?.narrow(1, 0, self.classes)?.contiguous()?;
        ops::log_softmax(&logits)?.max(1)?.exp()?.to_vec1()
    }

    /// The mean squared error of the factors, plus the cross-entropy of the class.
    fn loss(&self, images: &Tensor, labels: &[&Label]) -> Result<Tensor> {
        let features = self.features(images)?;
        let factors: Vec<f32> = labels.iter().flat_map(|l| l.factors.iter().copied()).collect();
        let wanted = Tensor::from_vec(factors, (labels.len(), labels[0].factors.len()), images.device())?;
        let loss = (self.factors(&features)? - wanted)?.sqr()?.mean_all()?;
        if self.classes == 0 {
            return Ok(loss);
        }
        let logits = self.outputs(&features)?.narrow(1, 0, self.classes)?.contiguous()?;
        loss + (cross_entropy(&logits, labels)? * CLASS_WEIGHT)?
    }
}

/// Mean cross-entropy of logits `[n, classes]`.
pub fn cross_entropy(logits: &Tensor, labels: &[&Label]) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    let mut wanted = vec![0f32; n * classes];
    wanted.chunks_exact_mut(classes).zip(labels).for_each(|(row, label)| row[label.class as usize] = 1.0);
    let off = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_p = off.broadcast_sub(&off.exp()?.sum_keepdim(1)?.log()?)?;
    (log_p * Tensor::from_vec(wanted, (n, classes), logits.device())?)?.sum_all()? * (-1.0 / n as f64)
}

/// The judge of the faces in training.
pub struct FaceTask(pub Judge);

impl Task for FaceTask {
    fn build(p: &Params) -> Result<Self> {
        Judge::of_faces(p).map(FaceTask)
    }

    fn loss(&self, images: &Tensor, labels: &[&Label], _step: u64) -> Result<Tensor> {
        self.0.loss(images, labels)
    }
}

/// The judge of the objects in training.
pub struct ObjectTask(pub Judge);

impl Task for ObjectTask {
    fn build(p: &Params) -> Result<Self> {
        Judge::of_objects(p).map(ObjectTask)
    }

    fn loss(&self, images: &Tensor, labels: &[&Label], _step: u64) -> Result<Tensor> {
        self.0.loss(images, labels)
    }
}

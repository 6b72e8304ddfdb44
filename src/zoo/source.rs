//! The procedural sources under one name: pictures with what is known of them.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::drawing::{Split, tensor};
use super::{faces, objects};

/// The seed of the pictures that every network of the zoo sees.
pub const SEED: u64 = 1;

/// The cards of pictures of one class, by its name in [`objects::CLASSES`].
const OF_ONE_CLASS: [(&str, &str); 1] = [("mini/cars", "car")];

/// One picture of either source.
pub struct Drawn {
    /// 64 rows of 64 pixels of R, G, B.
    pub rgb: Vec<u8>,
    /// Coverage of the head or the object, 0 to 255 per pixel.
    pub mask: Vec<u8>,
    pub label: Label,
    /// What no training picture shows, if the picture shows it.
    pub unseen: Option<String>,
}

/// What is known of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// The person of a face, over both splits; the class of an object.
    pub class: u32,
    /// The source's factors, in its order.
    pub factors: Vec<f32>,
}

/// What a source draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Faces,
    Objects,
}

/// A source of one seed.
#[derive(Clone)]
pub enum Source {
    Faces(faces::Source),
    Objects(objects::Source),
}

impl Source {
    pub fn of(subject: Subject, seed: u64) -> Source {
        match subject {
            Subject::Faces => Source::Faces(faces::Source::new(seed)),
            Subject::Objects => Source::Objects(objects::Source::new(seed)),
        }
    }

    /// The same pictures with objects of this class alone; faces have no classes to choose from and stay as they are.
    pub fn of_class(self, class: Option<usize>) -> Source {
        match self {
            Source::Faces(_) => self,
            Source::Objects(source) => Source::Objects(source.of_class(class)),
        }
    }

    /// The class of every picture, by its place in [`objects::CLASSES`], where the source has but one.
    pub fn class(&self) -> Option<usize> {
        match self {
            Source::Faces(_) => None,
            Source::Objects(source) => source.class(),
        }
    }

    /// The source behind a data set's card, for example "mini/faces"; None where it is none of ours.
    pub fn named(name: &str, seed: u64) -> Option<Source> {
        match name {
            "mini/faces" => Some(Self::of(Subject::Faces, seed)),
            "mini/objects" => Some(Self::of(Subject::Objects, seed)),
            _ => {
                let (_, class) = OF_ONE_CLASS.iter().find(|(card, _)| *card == name)?;
                let class = objects::CLASSES.iter().position(|c| c == class)?;
                Some(Self::of(Subject::Objects, seed).of_class(Some(class)))
            }
        }
    }

    /// The name of its card; that of all objects where its class has none of its own.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Faces(_) => "mini/faces",
            Source::Objects(source) => {
                let class = source.class().and_then(|class| objects::CLASSES.get(class));
                OF_ONE_CLASS.iter().find(|(_, name)| Some(name) == class).map_or("mini/objects", |(card, _)| card)
            }
        }
    }

    /// The card of the network that reads its pictures and takes part in no training.
    pub fn judge(&self) -> &'static str {
        match self {
            Source::Faces(_) => "mini/judge",
            Source::Objects(_) => "mini/judge_objects",
        }
    }

    /// The names of the factors.
    pub fn factors(&self) -> &'static [&'static str] {
        match self {
            Source::Faces(_) => &faces::FACTORS,
            Source::Objects(_) => &objects::FACTORS,
        }
    }

    /// Picture `index` of `split`; there is no last one.
    pub fn draw(&self, split: Split, index: u64) -> Drawn {
        self.draw_with(split, index, None)
    }

    /// Picture `index` of `split` with the factor of this place set to this value in [-1, 1] and all else as it was.
    pub fn draw_with(&self, split: Split, index: u64, changed: Option<(usize, f32)>) -> Drawn {
        match self {
            Source::Faces(source) => {
                let changed = changed.and_then(|(place, value)| Some((faces::Factor::named(faces::FACTORS.get(place)?)?, value)));
                let p = source.draw_with(split, index, changed.as_slice());
                let label = Label { class: p.identity, factors: p.factors.to_vec() };
                Drawn { rgb: p.rgb, mask: p.mask, label, unseen: p.unseen.map(|a| format!("{a:?}")) }
            }
            Source::Objects(source) => {
                let changed = changed.and_then(|(place, value)| Some((objects::Factor::named(objects::FACTORS.get(place)?)?, value)));
                let p = source.draw_with(split, index, None, changed.as_slice());
                Drawn { rgb: p.rgb, mask: p.mask, label: Label { class: p.class as u32, factors: p.factors.to_vec() }, unseen: None }
            }
        }
    }

    /// The pictures `indices`, drawn on all threads.
    pub fn draw_all(&self, split: Split, indices: &[u64]) -> Vec<Drawn> {
        indices.par_iter().map(|&index| self.draw(split, index)).collect()
    }

    /// The pictures `indices` as a tensor `[n, 3, resolution, resolution]` in [-1, 1].
    ///
    /// Errors: `resolution` does not divide 64.
    pub fn batch(&self, split: Split, indices: &[u64], resolution: usize, device: &Device) -> Result<Tensor> {
        let pictures = self.draw_all(split, indices);
        tensor(pictures.iter().map(|p| p.rgb.as_slice()), resolution, device)
    }

    /// The indices of held-out pictures that show nothing unseen, `count` of them from the `first`.
    pub fn plain_held_out(&self, first: usize, count: usize) -> Vec<u64> {
        let unseen = |i: u64| matches!(self, Source::Faces(_)) && i % faces::UNSEEN_EVERY == faces::UNSEEN_EVERY - 1;
        (0..).filter(|&i| !unseen(i)).skip(first).take(count).collect()
    }
}

//! The procedural source of faces: 64x64 RGB pictures drawn from known factors, each pixel from signed distances to simple shapes
//! (coverage = clamp(1/2 - distance / pixel size, 0, 1), so there is no supersampling). Everything is a function of (seed, split,
//! index): the same picture comes out whatever else was drawn, on any number of threads.
//!
//! A picture has [`FACTORS`] (identity and attributes), a few nuisances (background gradient, clothes) and a micro-texture that no
//! factor explains: hair strands, skin grain, blotches, background and sensor noise. A fifth of the held-out pictures wears an
//! [`Accessory`] that no training picture has.
//!
//! This file is longer than others because drawing one face is one thing; the order of drawing is the order of the functions.

use rand::RngExt;
use rand_distr::StandardNormal;

use super::drawing::{Colour, PIXELS, SIZE, Split, Texture, bump, ellipse, hsv, mix, step, times};
use crate::random::Stream;

/// The names of the factors, in the order of [`Picture::factors`]; each lies in [-1, 1]. The first [`IDENTITY_FACTORS`] belong to
/// the person, the rest to the picture.
pub const FACTORS: [&str; 25] = [
    "face-width",
    "face-height",
    "jaw",
    "skin-tone",
    "skin-redness",
    "hair-lightness",
    "hair-hue",
    "hair-length",
    "fringe",
    "eye-size",
    "iris",
    "eye-spacing",
    "brow",
    "nose-width",
    "nose-length",
    "mouth-width",
    "lip",
    "age",
    "beard",
    "smile",
    "glasses",
    "yaw",
    "background-hue",
    "background-lightness",
    "light",
];

/// How many of [`FACTORS`] (the first ones) are the same in every picture of one person.
pub const IDENTITY_FACTORS: usize = 17;

/// Persons in the training split and in the held-out split; no person is in both.
pub const TRAIN_IDENTITIES: u64 = 4096;
pub const HELD_OUT_IDENTITIES: u64 = 1024;

/// One held-out picture in this many wears an accessory.
pub const UNSEEN_EVERY: u64 = 5;

/// The place of each factor in [`FACTORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    FaceWidth,
    FaceHeight,
    Jaw,
    SkinTone,
    SkinRedness,
    HairLightness,
    HairHue,
    HairLength,
    Fringe,
    EyeSize,
    Iris,
    EyeSpacing,
    Brow,
    NoseWidth,
    NoseLength,
    MouthWidth,
    Lip,
    Age,
    Beard,
    Smile,
    Glasses,
    Yaw,
    BackgroundHue,
    BackgroundLightness,
    Light,
}

use Factor::*;

const ALL: [Factor; FACTORS.len()] = [
    FaceWidth,
    FaceHeight,
    Jaw,
    SkinTone,
    SkinRedness,
    HairLightness,
    HairHue,
    HairLength,
    Fringe,
    EyeSize,
    Iris,
    EyeSpacing,
    Brow,
    NoseWidth,
    NoseLength,
    MouthWidth,
    Lip,
    Age,
    Beard,
    Smile,
    Glasses,
    Yaw,
    BackgroundHue,
    BackgroundLightness,
    Light,
];

impl Factor {
    /// The factor of this name in [`FACTORS`].
    pub fn named(name: &str) -> Option<Factor> {
        FACTORS.iter().position(|n| *n == name).map(|i| ALL[i])
    }
}

/// Uniform over [-1, 1]; the others are normal with standard deviation 1/2, clipped, and glasses are +1 in 30 % and -1 in 70 %.
const UNIFORM: [Factor; 7] = [SkinTone, HairLightness, Age, Smile, Yaw, BackgroundHue, Light];

/// A third of the pictures has this factor (by its place in [`FACTORS`]) above the returned value, a third below its negative.
pub fn tertile(factor: usize) -> f32 {
    if UNIFORM.iter().any(|&u| u as usize == factor) { 1.0 / 3.0 } else { 0.5 * 0.430_727 }
}

/// What only held-out pictures wear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accessory {
    Hat,
    Sunglasses,
    FaceMask,
    Headphones,
    FacePaint,
    EarringsAndScarf,
}

const ACCESSORIES: [Accessory; 6] =
    [Accessory::Hat, Accessory::Sunglasses, Accessory::FaceMask, Accessory::Headphones, Accessory::FacePaint, Accessory::EarringsAndScarf];

/// One drawn picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// 64 rows of 64 pixels of R, G, B.
    pub rgb: Vec<u8>,
    /// The values of [`FACTORS`].
    pub factors: [f32; FACTORS.len()],
    /// Which person, over both splits.
    pub identity: u32,
    /// What the training pictures never show, if the picture wears it.
    pub unseen: Option<Accessory>,
    /// Coverage of the head (face, ears and hair), 0 to 255 per pixel.
    pub mask: Vec<u8>,
}

/// The source of one seed.
#[derive(Clone)]
pub struct Source {
    seed: u64,
    identities: Stream,
}

impl Source {
    pub fn new(seed: u64) -> Self {
        Source { seed, identities: Stream::new(seed, "faces/identity") }
    }

    /// Picture `index` of `split`; there is no last one.
    pub fn draw(&self, split: Split, index: u64) -> Picture {
        self.draw_with(split, index, &[])
    }

    /// Picture `index` of `split` with some factors set to other values in [-1, 1] and all else, the micro-texture included, as it
    /// was: what a factor changes.
    pub fn draw_with(&self, split: Split, index: u64, changed: &[(Factor, f32)]) -> Picture {
        let mut rng = Stream::new(self.seed, &format!("faces/{}", split.name())).at(index);
        let identity = match split {
            Split::Train => rng.random_range(0..TRAIN_IDENTITIES),
            Split::HeldOut => TRAIN_IDENTITIES + rng.random_range(0..HELD_OUT_IDENTITIES),
        };
        let mut factors = [0.0; FACTORS.len()];
        draw_factors(&mut self.identities.at(identity), &mut factors[..IDENTITY_FACTORS], 0);
        draw_factors(&mut rng, &mut factors[IDENTITY_FACTORS..], IDENTITY_FACTORS);
        for &(factor, value) in changed {
            factors[factor as usize] = value.clamp(-1.0, 1.0);
        }
        let wears = split == Split::HeldOut && index % UNSEEN_EVERY == UNSEEN_EVERY - 1;
        let unseen = wears.then(|| ACCESSORIES[rng.random_range(0..ACCESSORIES.len())]);
        let nuisance: [f32; 5] = std::array::from_fn(|_| rng.random_range(-1.0f32..1.0));
        let texture = Texture::draw(&mut rng);
        let (rgb, mask) = Face::new(&factors, nuisance, unseen).paint(&texture);
        Picture { rgb, factors, identity: identity as u32, unseen, mask }
    }
}

fn draw_factors(rng: &mut impl rand::Rng, out: &mut [f32], first: usize) {
    for (i, value) in out.iter_mut().enumerate() {
        let place = first + i;
        *value = if place == Glasses as usize {
            if rng.random_range(0.0f32..1.0) < 0.3 { 1.0 } else { -1.0 }
        } else if UNIFORM.iter().any(|&u| u as usize == place) {
            rng.random_range(-1.0f32..1.0)
        } else {
            let normal: f32 = rng.sample(StandardNormal);
            (0.5 * normal).clamp(-1.0, 1.0)
        };
    }
}

/// Half the frame is this many units wide, so that the head fills about two thirds of the picture.
const ZOOM: f32 = 0.87;
const PIXEL: f32 = 2.0 * ZOOM / SIZE as f32;

/// Coverage of a pixel by a shape at this signed distance (negative inside).
fn cover(distance: f32) -> f32 {
    (0.5 - distance / PIXEL).clamp(0.0, 1.0)
}

/// Everything about one face that does not depend on the pixel.
struct Face<'a> {
    factors: &'a [f32; FACTORS.len()],
    unseen: Option<Accessory>,
    accessory_colour: Colour,
    background: [Colour; 2],
    gradient: (f32, f32),
    skin: Colour,
    hair: Colour,
    cloth: Colour,
    iris: Colour,
    /// Half axes of the head, its centre, and the rotation in radians.
    a: f32,
    b: f32,
    centre: (f32, f32),
    turn: f32,
    light: (f32, f32),
}

impl<'a> Face<'a> {
    fn new(factors: &'a [f32; FACTORS.len()], nuisance: [f32; 5], unseen: Option<Accessory>) -> Self {
        let f = |factor: Factor| factors[factor as usize];
        let [saturation, angle, cloth_hue, cloth_value, accessory_hue] = nuisance;
        let background = hsv(f(BackgroundHue) * 0.5, 0.30 + 0.12 * saturation, (0.58 + 0.32 * f(BackgroundLightness)).clamp(0.1, 0.95));
        let tone = f(SkinTone) * 0.5 + 0.5;
        let skin = [0.42 + 0.52 * tone, 0.26 + 0.52 * tone - 0.04 * f(SkinRedness), 0.18 + 0.50 * tone - 0.08 * f(SkinRedness)];
        let blond = (f(HairLightness) * 0.5 + 0.5).powf(1.4);
        let hair = [0.07 + 0.78 * blond, 0.05 + (0.62 - 0.16 * f(HairHue)) * blond, 0.05 + (0.36 - 0.22 * f(HairHue)) * blond];
        let grey = ((f(Age) - 0.35).max(0.0) * 1.2).min(0.85);
        let mean = hair.iter().sum::<f32>() / 3.0;
        Face {
            factors,
            unseen,
            accessory_colour: hsv(accessory_hue * 0.5, 0.75, 0.75),
            background: [background, times(background, 0.62)],
            gradient: (1.2 * angle).sin_cos(),
            skin,
            hair: mix(hair, [mean * 0.6 + 0.36; 3], grey),
            cloth: hsv(f(BackgroundHue) * 0.5 + 0.45 + 0.1 * cloth_hue, 0.5, 0.45 + 0.2 * cloth_value),
            iris: hsv(0.08 + 0.26 * (f(Iris) + 1.0), 0.6, 0.30 + 0.16 * (f(Iris) + 1.0)),
            a: 0.47 + 0.06 * f(FaceWidth),
            b: 0.60 + 0.06 * f(FaceHeight),
            centre: (0.04 * f(Yaw), 0.06),
            turn: 0.42 * f(Yaw),
            light: (0.75 * f(Light), -0.45),
        }
    }

    fn f(&self, factor: Factor) -> f32 {
        self.factors[factor as usize]
    }

    /// The picture and the mask of the head.
    fn paint(&self, texture: &Texture) -> (Vec<u8>, Vec<u8>) {
        let mut rgb = Vec::with_capacity(3 * PIXELS);
        let mut mask = Vec::with_capacity(PIXELS);
        for row in 0..SIZE {
            for column in 0..SIZE {
                let at = row * SIZE + column;
                let on_axis = |i: usize| (i as f32 + 0.5) / SIZE as f32 * 2.0 - 1.0;
                let pixel = Pixel::new(self, on_axis(column) * ZOOM, on_axis(row) * ZOOM + 0.03, texture, at);
                let (colour, head) = self.pixel(&pixel);
                rgb.extend((0..3).map(|c| ((colour[c] + 0.005 * texture.white[at][c]).clamp(0.0, 1.0) * 255.0).round() as u8));
                mask.push((head * 255.0).round() as u8);
            }
        }
        (rgb, mask)
    }

    fn pixel(&self, p: &Pixel) -> (Colour, f32) {
        let mut colour = self.backdrop(p);
        let hair_behind = self.hair_behind(p);
        let strand = 0.80 + 0.16 * p.strands + 0.22 * (-(p.x * self.light.0) - 0.5 * p.y);
        colour = mix(colour, times(self.hair, 0.72 * strand), hair_behind);
        colour = self.body(p, colour);
        let ears = self.ears(p);
        colour = mix(colour, std::array::from_fn(|c| self.skin[c] * [1.0, 0.92, 0.90][c] * (0.72 + 0.04 * p.grain)), ears);
        let head = cover(p.head);
        let hairline = self.hairline(p);
        if head > 0.0 {
            let bare = self.features(p, self.complexion(p));
            // The fringe ends above the brows; it may hang lower at the temples.
            let edge = hairline + self.f(Fringe).max(0.0) * 0.10 - 0.13 * p.u * self.f(HairHue);
            let fringe = cover(p.y - edge.min(EYE_LEVEL - 0.09 + 1.5 * (p.u.abs() - 0.26).max(0.0)));
            let haired = mix(bare, times(self.hair, strand + 0.18 * bump(p.y + 0.48, 0.12)), fringe);
            colour = mix(colour, self.worn_on_face(p, self.glasses(p, haired)), head);
        }
        let crown = ellipse(p.x + 0.03 * self.f(Yaw), p.y + 0.12, self.a * 1.16, self.b * 0.98).max(p.y - hairline + 0.02);
        let rim = cover(crown) * (1.0 - head);
        colour = mix(colour, times(self.hair, strand), rim);
        (self.worn_around_head(p, colour), head.max(hair_behind).max(ears).max(rim))
    }

    fn backdrop(&self, p: &Pixel) -> Colour {
        let along = (0.5 + 0.45 * (p.frame.0 * self.gradient.0 + p.frame.1 * self.gradient.1)).clamp(0.0, 1.0);
        mix(self.background[0], self.background[1], along).map(|v| v + 0.035 * p.low + 0.010 * p.white)
    }

    /// The hair behind the head: an ellipse around it and a box at its sides, both cut where the hair ends.
    fn hair_behind(&self, p: &Pixel) -> f32 {
        let end = p.y - (0.05 + 0.55 * (self.f(HairLength) + 0.25));
        let around = ellipse(p.x + 0.05 * self.f(Yaw), p.y + 0.10, self.a * 1.22, self.b * 1.08).max(end);
        let sides = (p.x.abs() - self.a * (1.24 - 0.06 * p.y.max(0.0))).max(end).max(-p.y - 0.1);
        cover(around.min(sides))
    }

    fn body(&self, p: &Pixel, colour: Colour) -> Colour {
        let neck = (p.x.abs() - (0.20 + 0.03 * self.f(FaceWidth))).max(0.3 - p.y);
        let colour = mix(colour, times(self.skin, 0.68 + 0.05 * p.grain), cover(neck));
        let shoulders = 0.80 + 0.30 * p.x * p.x - p.y;
        mix(colour, times(self.cloth, 0.9 + 0.06 * p.grain + 0.25 * p.x * self.light.0), cover(shoulders))
    }

    /// The ear on the side that the head is turned to disappears.
    fn ears(&self, p: &Pixel) -> f32 {
        let ear = |side: f32| {
            if side * self.f(Yaw) < 0.6 { cover(ellipse(p.x - side * self.a, p.y - 0.02, 0.07, 0.13)) } else { 0.0 }
        };
        ear(-1.0).max(ear(1.0))
    }

    fn hairline(&self, p: &Pixel) -> f32 {
        let wave = 0.05 * (p.u * 16.0 + 3.0 * self.f(HairHue)).sin();
        -0.30 - 0.10 * self.b + 0.10 * self.f(Fringe) + 0.3025 * (p.u / self.a).powi(2) + wave
    }

    /// The skin with its shading, cheeks, age and beard.
    fn complexion(&self, p: &Pixel) -> Colour {
        let (u, y) = (p.u, p.y);
        let mut face = times(self.skin, p.shade + 0.035 * p.grain);
        let cheek = bump(u.abs() - 0.24, 0.12) * bump(y - 0.17, 0.12) * (0.10 + 0.10 * self.f(SkinRedness));
        face = [face[0] * (1.0 - 0.1 * cheek), face[1] * (1.0 - cheek), face[2] * (1.0 - 0.8 * cheek)];
        let age = (self.f(Age) + 0.2).max(0.0) * 0.9;
        if age > 0.0 {
            let fold = bump(u.abs() - 0.13 - 0.35 * (y - 0.12), 0.022) * step((y - 0.14) * 30.0) * step((0.40 - y) * 30.0);
            let lines = ((y + 0.38 + 0.05 * u * u) * 52.0).sin().max(0.0) * bump(y + 0.30, 0.09) * bump(u, 0.26);
            let bags = bump(u.abs() - self.eye_at(), 0.09) * bump(y - 0.045, 0.028);
            face = times(face, 1.0 - age * (0.28 * fold + 0.20 * lines + 0.22 * bags + 0.07 * p.low.abs()));
        }
        let beard = self.f(Beard).max(0.0) * 1.6;
        if beard > 0.0 {
            let mouth_free = 1.0 - bump(u, 0.13) * bump(y - 0.36, 0.055);
            let region = step((y - 0.20 + 0.45 * (u.abs() - 0.30)) * 22.0) * mouth_free;
            face = mix(face, times(self.hair, 0.85 * p.shade), (beard * region * (0.85 + 0.35 * p.strands)).clamp(0.0, 0.92));
        }
        face
    }

    /// Half the distance of the eyes.
    fn eye_at(&self) -> f32 {
        0.205 + 0.045 * self.f(EyeSpacing)
    }

    fn features(&self, p: &Pixel, face: Colour) -> Colour {
        let face = self.nose(p, face);
        let face = self.mouth(p, face);
        self.eyes(p, face)
    }

    fn nose(&self, p: &Pixel, face: Colour) -> Colour {
        let (u, y) = (p.u, p.y);
        if u.abs() > 0.45 || !(-0.4..0.4).contains(&y) {
            return face;
        }
        let width = 0.072 + 0.040 * self.f(NoseWidth);
        let end = 0.17 + 0.050 * self.f(NoseLength);
        let ridge = bump(u, 0.035) * step((y + 0.08) * 25.0) * step((end - y) * 40.0);
        let shadow = bump(u + self.light.0.signum() * width * 0.85, 0.032) * step((y + 0.08) * 18.0) * step((end + 0.02 - y) * 40.0);
        let tip = bump(u, width * 1.15) * bump(y - end - 0.012, 0.022);
        let nostrils = bump(u.abs() - width * 0.72, 0.026) * bump(y - end - 0.006, 0.020);
        times(face, 1.0 + 0.13 * ridge * p.facing - 0.20 * shadow * self.light.0.abs() - 0.22 * tip - 0.45 * nostrils)
    }

    /// A band around a parabola whose corners rise with the smile; a wide smile shows teeth.
    fn mouth(&self, p: &Pixel, face: Colour) -> Colour {
        let smile = self.f(Smile);
        let width = 0.165 + 0.060 * self.f(MouthWidth) + 0.025 * smile;
        let m = p.u / width;
        if m.abs() > 1.3 || !(0.1..0.6).contains(&p.y) {
            return face;
        }
        let middle = 0.345 + 0.01 * self.f(FaceHeight) + 0.075 * smile * (0.45 - m * m);
        let arch = (1.0 - m * m).clamp(0.0, 1.0);
        let open = (smile - 0.25).max(0.0) * 0.062 * arch;
        let lips = (0.030 + 0.016 * self.f(Lip)) * arch.powf(0.6);
        let off = (p.y - middle - 0.4 * open).abs();
        let red = std::array::from_fn(|c| (self.skin[c] * [0.86, 0.52, 0.52][c] + 0.02) * p.shade * 0.98);
        let face = mix(face, red, cover((off - lips - open).max((m.abs() - 1.0) * width)));
        let inside = match (smile > 0.3, p.y < middle + 0.55 * open) {
            (true, true) => 0.88,
            (true, false) => 0.30,
            (false, _) => 0.22,
        };
        mix(face, [inside, 0.90 * inside, 0.86 * inside], 0.9 * cover((off - open - 0.006).max((m.abs() - 0.92) * width)))
    }

    fn eyes(&self, p: &Pixel, face: Colour) -> Colour {
        let across = p.u.abs() - self.eye_at();
        let down = p.y - EYE_LEVEL;
        if across.abs() > 0.25 || !(-0.25..0.15).contains(&down) {
            return face;
        }
        let width = 0.088 + 0.014 * self.f(EyeSize);
        let height = 0.044 + 0.014 * self.f(EyeSize) - 0.010 * self.f(Smile).max(0.0);
        let white = cover(ellipse(across, down, width, height));
        let lid = cover(ellipse(across, down + 0.012, width * 1.12, height * 1.25));
        let mut face = times(face, 1.0 - 0.38 * lid);
        face = mix(face, times([0.93, 0.92, 0.90], (p.shade * 0.95 + 0.1).clamp(0.0, 1.0)), white);
        let gaze = p.u - p.u.signum() * self.eye_at();
        face = mix(face, self.iris, cover(ellipse(gaze, down, 0.042, 0.042)).min(white));
        face = mix(face, [0.04; 3], cover(ellipse(gaze, down, 0.020, 0.020)).min(white));
        face = mix(face, [0.95; 3], 0.8 * cover(ellipse(gaze + 0.014, down + 0.014, 0.012, 0.012)).min(white));
        let brow = self.f(Brow);
        let line = down + 0.105 + 0.012 * brow + 0.0084 * brow * across / width - 0.35 * across * across / width;
        let hairs = cover((line.abs() - (0.016 + 0.008 * brow + 0.004 * self.f(Beard))).max(across.abs() - width * 1.22));
        mix(face, times(self.hair, 0.62 + 0.1 * p.strands), 0.88 * hairs)
    }

    /// Signed distance to the two lenses.
    fn lens(&self, p: &Pixel) -> f32 {
        let across = ((p.u.abs() - self.eye_at()).abs() - 0.075).max(0.0);
        let down = ((p.y - EYE_LEVEL - 0.005).abs() - 0.04).max(0.0);
        across.hypot(down) - 0.055
    }

    fn frame(&self, p: &Pixel, lens: f32) -> f32 {
        let level = (p.y - EYE_LEVEL + 0.02).abs();
        let bridge = (level - 0.011).max(p.u.abs() - self.eye_at() + 0.12);
        let arms = (level - 0.012).max(self.eye_at() + 0.125 - p.u.abs());
        cover((lens.abs() - 0.014).min(bridge).min(arms))
    }

    fn glasses(&self, p: &Pixel, face: Colour) -> Colour {
        if self.f(Glasses) <= 0.0 {
            return face;
        }
        let lens = self.lens(p);
        let behind = mix(face, face.map(|v| 0.86 * v + 0.06), 0.5 * cover(lens));
        mix(behind, [0.10 + 0.10 * self.f(Iris).abs(), 0.09, 0.10], 0.95 * self.frame(p, lens))
    }

    fn worn_on_face(&self, p: &Pixel, face: Colour) -> Colour {
        match self.unseen {
            Some(Accessory::Sunglasses) => {
                let lens = self.lens(p) - 0.015;
                let glass = [0.06; 3].map(|v: f32| v + 0.25 * bump(p.u + p.y, 0.03));
                mix(mix(face, glass, cover(lens)), times(self.accessory_colour, 0.5), self.frame(p, lens))
            }
            Some(Accessory::FaceMask) => {
                let edge = 0.10 + 0.25 * (p.u / self.a).powi(2);
                let pleats = 0.92 + 0.08 * (p.y * 60.0).sin();
                mix(face, times(mix(self.accessory_colour, [1.0; 3], 0.5), pleats * p.shade), cover(edge - p.y))
            }
            Some(Accessory::FacePaint) => {
                let stripes = (p.u.abs() - 0.25).abs().max((p.y - 0.13).abs() * 0.9) - 0.13;
                let on = if ((p.y + 0.3 * p.u.abs()) * 55.0).sin() > 0.0 { 1.0 } else { 0.0 };
                mix(face, times(self.accessory_colour, p.shade), 0.9 * on * cover(stripes))
            }
            _ => face,
        }
    }

    fn worn_around_head(&self, p: &Pixel, colour: Colour) -> Colour {
        let (x, y) = (p.x, p.y);
        let tone = self.accessory_colour;
        match self.unseen {
            Some(Accessory::Hat) => {
                let top = (ellipse(x, y + 0.42, self.a * 1.15, 0.42)).max(y + 0.40);
                let brim = ellipse(x, y + 0.38, self.a * 1.65, 0.075);
                let band = (y + 0.46).abs() - 0.045;
                let crown = mix(times(tone, 0.85 - 0.4 * x * -self.light.0), times(tone, 0.35), cover(band));
                mix(mix(colour, crown, cover(top)), times(tone, 0.65), cover(brim))
            }
            Some(Accessory::Headphones) => {
                let band = ellipse(x, y + 0.10, self.a * 1.22, self.b * 1.12).abs().max(y + 0.02) - 0.035;
                let cup = ellipse(x.abs() - self.a * 1.12, y - 0.03, 0.12, 0.18);
                mix(mix(colour, [0.12; 3], cover(band)), times(tone, 0.9 - 0.3 * step(cup * -60.0)), cover(cup))
            }
            Some(Accessory::EarringsAndScarf) => {
                let scarf = ellipse(x, y - 0.86, 0.52, 0.20);
                let stripes = if ((x + 0.6 * y) * 24.0).sin() > 0.0 { 0.95 } else { 0.55 };
                let rings = ellipse(x.abs() - self.a * 1.04, y - 0.24, 0.055, 0.075).abs() - 0.022;
                mix(mix(colour, times(tone, stripes), cover(scarf)), [0.95, 0.80, 0.25], cover(rings))
            }
            _ => colour,
        }
    }
}

/// Where the eyes are, downwards from the centre of the head.
const EYE_LEVEL: f32 = -0.03;

/// One pixel: its place relative to the head, on the rotated face, and its texture.
struct Pixel {
    /// Place in the frame and relative to the centre of the head; y points down.
    frame: (f32, f32),
    x: f32,
    y: f32,
    /// Across the face, on a cylinder turned by the yaw: all features move and foreshorten together.
    u: f32,
    /// Signed distance to the head.
    head: f32,
    /// How much the surface faces the viewer, and its Lambert shade.
    facing: f32,
    shade: f32,
    white: f32,
    low: f32,
    strands: f32,
    grain: f32,
}

impl Pixel {
    fn new(face: &Face, frame_x: f32, frame_y: f32, texture: &Texture, at: usize) -> Self {
        let (x, y) = (frame_x - face.centre.0, frame_y - face.centre.1);
        let down = y / face.b;
        // An egg: narrower at the jaw.
        let jaw = 1.0 - (0.20 - 0.22 * face.f(Jaw)) * down.max(0.0) * down.max(0.0).sqrt();
        let across = x / (face.a * jaw);
        let radius = across * across + down * down;
        let facing = (1.0 - radius).clamp(0.02, 1.0).sqrt();
        let lambert = across * face.light.0 + 0.8 * down * face.light.1 + 0.75 * facing;
        let angle = (x / face.a).clamp(-0.985, 0.985).asin() - face.turn;
        Pixel {
            frame: (frame_x, frame_y),
            x,
            y,
            u: angle * face.a * 0.92,
            head: (radius.sqrt() - 1.0) * face.a,
            facing,
            shade: (0.62 + 0.30 * lambert).clamp(0.25, 1.15),
            white: texture.white[at][2],
            low: texture.low[at],
            strands: texture.strands[at],
            grain: texture.grain[at],
        }
    }
}

//! The procedural source of objects: 64x64 RGB pictures of one object of ten [`CLASSES`], anywhere in the frame, of any size,
//! tilted and facing either way, in front of clutter: the misaligned data of the mini zoo. Drawn as the faces are, from signed
//! distances; everything is a function of (seed, split, index). The mask says exactly which pixels are the object.
//!
//! A picture has a class, the [`FACTORS`], and what no factor explains: the pieces of clutter, the grain of the surface, sensor noise.

use rand::RngExt;

use super::drawing::{Colour, PIXELS, SIZE, Split, Texture, bump, ellipse, hsv, mix, times};
use crate::random::Stream;

/// The names of the classes; [`Picture::class`] is the place in this list.
pub const CLASSES: [&str; 10] = ["cup", "car", "house", "tree", "fish", "star", "bird", "mushroom", "boat", "flower"];

/// The names of the factors, in the order of [`Picture::factors`]; each is uniform in [-1, 1], but "facing", which is -1 or 1.
pub const FACTORS: [&str; 13] = [
    "x",
    "y",
    "scale",
    "tilt",
    "facing",
    "hue",
    "lightness",
    "accent",
    "build",
    "background-hue",
    "background-lightness",
    "clutter",
    "light",
];

/// The place of each factor in [`FACTORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    X,
    Y,
    Scale,
    Tilt,
    Facing,
    Hue,
    Lightness,
    Accent,
    Build,
    BackgroundHue,
    BackgroundLightness,
    Clutter,
    Light,
}

use Factor::*;

const ALL: [Factor; FACTORS.len()] =
    [X, Y, Scale, Tilt, Facing, Hue, Lightness, Accent, Build, BackgroundHue, BackgroundLightness, Clutter, Light];

impl Factor {
    /// The factor of this name in [`FACTORS`].
    pub fn named(name: &str) -> Option<Factor> {
        FACTORS.iter().position(|n| *n == name).map(|i| ALL[i])
    }
}

/// One drawn picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// 64 rows of 64 pixels of R, G, B.
    pub rgb: Vec<u8>,
    /// The place of the class in [`CLASSES`].
    pub class: usize,
    /// The values of [`FACTORS`].
    pub factors: [f32; FACTORS.len()],
    /// Coverage of the object, 0 to 255 per pixel.
    pub mask: Vec<u8>,
}

/// The source of one seed.
#[derive(Clone)]
pub struct Source {
    seed: u64,
    /// The class of every object, where there is but one.
    class: Option<usize>,
}

/// Pieces of clutter in the fullest picture.
const PIECES: usize = 9;

impl Source {
    pub fn new(seed: u64) -> Self {
        Source { seed, class: None }
    }

    /// The same pictures, each with an object of this class (below 10) in place of its own; of all classes without one.
    pub fn of_class(self, class: Option<usize>) -> Self {
        Source { class, ..self }
    }

    /// The class of every object, where there is but one.
    pub fn class(&self) -> Option<usize> {
        self.class
    }

    /// Picture `index` of `split`; there is no last one.
    pub fn draw(&self, split: Split, index: u64) -> Picture {
        self.draw_with(split, index, None, &[])
    }

    /// Picture `index` of `split` with another class (below 10) or other values of some factors, and all else as it was.
    pub fn draw_with(&self, split: Split, index: u64, class: Option<usize>, changed: &[(Factor, f32)]) -> Picture {
        let mut rng = Stream::new(self.seed, &format!("objects/{}", split.name())).at(index);
        let drawn = rng.random_range(0..CLASSES.len());
        let mut factors: [f32; FACTORS.len()] = std::array::from_fn(|_| rng.random_range(-1.0f32..1.0));
        factors[Facing as usize] = if factors[Facing as usize] < 0.0 { -1.0 } else { 1.0 };
        for &(factor, value) in changed {
            factors[factor as usize] = value.clamp(-1.0, 1.0);
        }
        let class = class.or(self.class).unwrap_or(drawn) % CLASSES.len();
        let pieces = std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(-1.0f32..1.0)));
        let gradient = std::f32::consts::PI * rng.random_range(-1.0f32..1.0);
        let texture = Texture::draw(&mut rng);
        let (rgb, mask) = Scene::new(class, &factors, &pieces, gradient).paint(&texture);
        Picture { rgb, class, factors, mask }
    }
}

/// One piece of clutter behind the object.
struct Piece {
    kind: u32,
    at: (f32, f32),
    turn: (f32, f32),
    size: (f32, f32),
    colour: Colour,
}

impl Piece {
    fn new(random: &[f32; 7], hue: f32, value: f32) -> Self {
        let [kind, x, y, turn, width, height, tone] = *random;
        Piece {
            kind: ((kind + 1.0) * 1.5) as u32,
            at: (1.1 * x, 1.1 * y),
            turn: (1.6 * turn).sin_cos(),
            size: (0.24 + 0.14 * width, 0.24 + 0.14 * height),
            colour: hsv(hue + 0.14 * width, 0.22 + 0.12 * height, (value + 0.20 * tone).clamp(0.08, 0.97)),
        }
    }

    fn distance(&self, x: f32, y: f32) -> f32 {
        let (x, y) = rotated(x - self.at.0, y - self.at.1, self.turn);
        match self.kind {
            0 => ellipse(x, y, self.size.0, self.size.1),
            1 => rectangle(x, y, self.size.0, self.size.1, 0.03),
            // A bar, which leaves the frame.
            _ => x.abs() - 0.35 * self.size.0,
        }
    }
}

fn rotated(x: f32, y: f32, (sin, cos): (f32, f32)) -> (f32, f32) {
    (cos * x + sin * y, cos * y - sin * x)
}

/// Signed distance to a rectangle around the origin with these half sides; corners of this radius.
fn rectangle(x: f32, y: f32, a: f32, b: f32, radius: f32) -> f32 {
    let (dx, dy) = (x.abs() - a + radius, y.abs() - b + radius);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
}

fn disc(x: f32, y: f32, radius: f32) -> f32 {
    x.hypot(y) - radius
}

/// Signed distance to a polygon (the side of the nearest edge, by crossings).
fn polygon(x: f32, y: f32, corners: &[(f32, f32)]) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut from = corners[corners.len() - 1];
    for &to in corners {
        let edge = (to.0 - from.0, to.1 - from.1);
        let off = (x - from.0, y - from.1);
        let along = ((off.0 * edge.0 + off.1 * edge.1) / (edge.0 * edge.0 + edge.1 * edge.1)).clamp(0.0, 1.0);
        nearest = nearest.min((off.0 - edge.0 * along).powi(2) + (off.1 - edge.1 * along).powi(2));
        if (from.1 > y) != (to.1 > y) && x < from.0 + edge.0 * (y - from.1) / edge.1 {
            inside = !inside;
        }
        from = to;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

/// Everything about one picture that does not depend on the pixel.
struct Scene {
    class: usize,
    background: [Colour; 2],
    gradient: (f32, f32),
    pieces: Vec<Piece>,
    /// Centre and half size of the object in the frame, whose half side is 1.
    centre: (f32, f32),
    half: f32,
    turn: (f32, f32),
    facing: f32,
    build: f32,
    body: Colour,
    accent: Colour,
    light: f32,
}

impl Scene {
    fn new(class: usize, factors: &[f32; FACTORS.len()], pieces: &[[f32; 7]; PIECES], gradient: f32) -> Self {
        let f = |factor: Factor| factors[factor as usize];
        let half = 0.44 * (0.34 * (f(Scale) + 1.0)).exp();
        let (hue, value) = (0.5 * f(BackgroundHue), 0.52 + 0.30 * f(BackgroundLightness));
        let count = (1.0 + (f(Clutter) + 1.0) * 0.5 * (PIECES - 1) as f32).round() as usize;
        // The middle of a class's range of hues, its width in turns, and its saturation.
        let (middle, width, saturation) = match CLASSES[class] {
            "tree" => (0.30, 0.08, 0.65),
            "mushroom" => (0.02, 0.07, 0.80),
            "house" => (0.10, 0.50, 0.30),
            "star" => (0.13, 0.05, 0.85),
            "bird" => (0.60, 0.12, 0.65),
            _ => (0.0, 0.5, 0.72),
        };
        let room = 1.0 - 0.55 * half;
        Scene {
            class,
            background: [hsv(hue, 0.30, value), hsv(hue + 0.06, 0.34, 0.72 * value)],
            gradient: gradient.sin_cos(),
            pieces: pieces[..count].iter().map(|random| Piece::new(random, hue, value)).collect(),
            centre: (room * f(X), room * f(Y)),
            half,
            turn: (0.42 * f(Tilt)).sin_cos(),
            // Between the two there is nothing to draw.
            facing: f(Facing).signum(),
            build: f(Build),
            body: hsv(middle + width * f(Hue), saturation, 0.72 + 0.22 * f(Lightness)),
            accent: hsv(0.5 * f(Accent), 0.55, 0.80),
            light: f(Light),
        }
    }

    /// The picture and the mask of the object.
    fn paint(&self, texture: &Texture) -> (Vec<u8>, Vec<u8>) {
        let mut rgb = Vec::with_capacity(3 * PIXELS);
        let mut mask = Vec::with_capacity(PIXELS);
        for at in 0..PIXELS {
            let on_axis = |i: usize| (i as f32 + 0.5) / SIZE as f32 * 2.0 - 1.0;
            let (x, y) = (on_axis(at % SIZE), on_axis(at / SIZE));
            let behind = self.backdrop(x, y, texture, at);
            let (colour, covered) = self.object(x, y, behind, texture.grain[at]);
            rgb.extend((0..3).map(|c| ((colour[c] + 0.006 * texture.white[at][c]).clamp(0.0, 1.0) * 255.0).round() as u8));
            mask.push((covered * 255.0).round() as u8);
        }
        (rgb, mask)
    }

    fn backdrop(&self, x: f32, y: f32, texture: &Texture, at: usize) -> Colour {
        let along = (0.5 + 0.4 * (x * self.gradient.0 + y * self.gradient.1)).clamp(0.0, 1.0);
        let mut colour = mix(self.background[0], self.background[1], along);
        for piece in &self.pieces {
            // Softer than the object's edge: two pixels.
            colour = mix(colour, piece.colour, 0.75 * (0.5 - piece.distance(x, y) * SIZE as f32 / 4.0).clamp(0.0, 1.0));
        }
        colour.map(|v| v + 0.025 * texture.low[at] + 0.012 * texture.white[at][2])
    }

    /// The colour of a pixel and how much of it the object covers.
    fn object(&self, x: f32, y: f32, behind: Colour, grain: f32) -> (Colour, f32) {
        let (dx, dy) = ((x - self.centre.0) / self.half, (y - self.centre.1) / self.half);
        if dx * dx + dy * dy > 1.7 {
            return (behind, 0.0);
        }
        let (u, v) = rotated(dx, dy, self.turn);
        let shade = 0.94 + 0.20 * self.light * dx - 0.13 * dy + 0.05 * grain;
        let mut brush = Brush { u: self.facing * u, v, colour: behind, edge: f32::MAX, pixel: 2.0 / SIZE as f32 / self.half, shade };
        match self.class {
            0 => self.cup(&mut brush),
            1 => self.car(&mut brush),
            2 => self.house(&mut brush),
            3 => self.tree(&mut brush, grain),
            4 => self.fish(&mut brush),
            5 => self.star(&mut brush),
            6 => self.bird(&mut brush),
            7 => self.mushroom(&mut brush),
            8 => self.boat(&mut brush),
            _ => self.flower(&mut brush),
        }
        let covered = brush.cover(brush.edge);
        // The outline is darker, as where a round surface turns away.
        let outline = 1.0 - 0.38 * bump(brush.edge.min(0.0), 0.07) * covered;
        (times(brush.colour, outline), covered)
    }

    fn cup(&self, b: &mut Brush) {
        let (u, v, wide) = (b.u, b.v, 0.55 + 0.08 * self.build);
        b.part((disc(u - wide - 0.03, v - 0.02, 0.30)).abs() - 0.09, times(self.body, 0.85));
        b.part(polygon(u, v, &[(-wide, -0.62), (wide, -0.62), (wide - 0.14, 0.72), (0.14 - wide, 0.72)]) - 0.05, self.body);
        b.detail((v - 0.12).abs() - 0.15, self.accent);
        b.part(ellipse(u, v + 0.64, wide + 0.04, 0.15), times(self.body, 1.15));
        b.part(ellipse(u, v + 0.64, wide - 0.06, 0.09), times(self.body, 0.38));
    }

    fn car(&self, b: &mut Brush) {
        let (u, v, roof) = (b.u, b.v, -0.42 - 0.10 * self.build);
        b.part(polygon(u, v, &[(-0.68, 0.02), (-0.46, roof), (0.26, roof), (0.58, 0.02)]) - 0.04, self.body);
        b.part(rectangle(u, v - 0.20, 0.97, 0.24, 0.12), self.body);
        let glass = polygon(u, v, &[(-0.52, -0.02), (-0.38, roof + 0.08), (0.20, roof + 0.08), (0.42, -0.02)]);
        b.part(glass.max(0.035 - (u + 0.08).abs()), [0.75, 0.88, 0.95]);
        b.detail(disc(u - 0.86, v - 0.14, 0.09), [1.0, 0.95, 0.60]);
        for wheel in [-0.55, 0.55] {
            b.part(disc(u - wheel, v - 0.44, 0.25), [0.13, 0.13, 0.15]);
            b.part(disc(u - wheel, v - 0.44, 0.11), [0.72, 0.72, 0.75]);
        }
    }

    fn house(&self, b: &mut Brush) {
        let (u, v, wide) = (b.u, b.v, 0.64 + 0.08 * self.build);
        b.part(rectangle(u - 0.42, v + 0.58, 0.11, 0.26, 0.0), times(self.accent, 0.7));
        b.part(rectangle(u, v - 0.34, wide, 0.48, 0.0), self.body);
        b.part(polygon(u, v, &[(-wide - 0.24, -0.12), (0.0, -0.92), (wide + 0.24, -0.12)]), times(self.accent, 0.82));
        b.part(rectangle(u + 0.26, v - 0.52, 0.16, 0.30, 0.0), [0.35, 0.22, 0.14]);
        let pane = rectangle(u - 0.27, v - 0.26, 0.19, 0.18, 0.0);
        b.part(pane, [0.96, 0.95, 0.90]);
        b.part((pane + 0.05).max(0.025 - (u - 0.27).abs()), [0.45, 0.65, 0.85]);
    }

    fn tree(&self, b: &mut Brush, grain: f32) {
        let (u, v, wide) = (b.u, b.v, 1.0 + 0.18 * self.build);
        b.part(rectangle(u, v - 0.62, 0.13, 0.38, 0.0), [0.42, 0.27, 0.15]);
        let u = u / wide;
        let crown = disc(u, v + 0.42, 0.48).min(disc(u.abs() - 0.38, v + 0.02, 0.38)).min(disc(u, v, 0.36));
        b.part(crown, times(self.body, 1.0 + 0.12 * grain));
        for (x, y) in [(-0.30, -0.05), (0.34, 0.08), (0.05, -0.45), (-0.05, 0.12)] {
            b.detail(disc(u - x, v - y, 0.09).max(crown), times(self.accent, 1.1));
        }
    }

    fn fish(&self, b: &mut Brush) {
        let (u, v, tall) = (b.u, b.v, 0.45 + 0.07 * self.build);
        b.part(polygon(u, v, &[(-0.42, 0.0), (-0.98, -0.46), (-0.82, 0.0), (-0.98, 0.46)]), self.accent);
        b.part(polygon(u, v, &[(-0.28, -0.30), (0.10, -0.36 - tall), (0.42, -0.28)]), self.accent);
        let body = ellipse(u - 0.16, v, 0.76, tall);
        b.part(body, self.body);
        for stripe in [-0.22, 0.12] {
            b.detail(((u - stripe + 0.25 * v * v).abs() - 0.07).max(body), times(self.accent, 0.9));
        }
        b.part(disc(u - 0.60, v + 0.10, 0.12), [0.98; 3]);
        b.part(disc(u - 0.62, v + 0.10, 0.06), [0.05; 3]);
    }

    fn star(&self, b: &mut Brush) {
        let (u, v) = (b.u, b.v);
        let inner = 0.44 + 0.05 * self.build;
        let corner = |i: usize| {
            let (sin, cos) = (i as f32 * std::f32::consts::PI / 5.0).sin_cos();
            let radius = if i.is_multiple_of(2) { 1.0 } else { inner };
            (radius * sin, 0.05 - radius * cos)
        };
        let corners: [(f32, f32); 10] = std::array::from_fn(corner);
        b.part(polygon(u, v, &corners) - 0.02, self.body);
        // Each arm has a light and a dark side.
        let sector = (u.atan2(0.05 - v) * 5.0 / std::f32::consts::PI).rem_euclid(2.0);
        if sector > 1.0 {
            b.detail(f32::MIN, times(self.body, 0.72));
        }
        b.part(disc(u, v - 0.05, 0.20), self.accent);
    }

    fn bird(&self, b: &mut Brush) {
        let (u, v, round) = (b.u, b.v, 0.42 + 0.06 * self.build);
        for leg in [-0.08, 0.16] {
            b.part(rectangle(u - leg, v - 0.66, 0.04, 0.26, 0.0), [0.90, 0.55, 0.15]);
        }
        b.part(polygon(u, v, &[(-0.40, -0.10), (-1.05, -0.42), (-0.98, -0.02), (-0.45, 0.22)]), times(self.body, 0.75));
        b.part(polygon(u, v, &[(0.76, -0.52), (1.10, -0.38), (0.76, -0.26)]), [0.95, 0.60, 0.12]);
        let body = ellipse(u + 0.02, v - 0.10, 0.62, round);
        b.part(body.min(disc(u - 0.52, v + 0.38, 0.31)), self.body);
        b.detail(ellipse(u - 0.22, v - 0.26, 0.34, 0.22).max(body), mix(self.body, [1.0; 3], 0.6));
        b.part(ellipse(u + 0.18, v - 0.02, 0.36, 0.21), times(self.accent, 0.85));
        b.part(disc(u - 0.60, v + 0.44, 0.09), [0.97; 3]);
        b.part(disc(u - 0.61, v + 0.44, 0.05), [0.05; 3]);
    }

    fn mushroom(&self, b: &mut Brush) {
        let (u, v, wide) = (b.u, b.v, 0.86 + 0.10 * self.build);
        b.part(rectangle(u, v - 0.44, 0.24 + 0.10 * v.max(0.0), 0.48, 0.08), [0.93, 0.89, 0.80]);
        let cap = ellipse(u, v - 0.08, wide, 0.88).max(v - 0.10) - 0.03;
        b.part(cap, self.body);
        for (x, y, radius) in [(-0.42, -0.30, 0.15), (0.18, -0.52, 0.16), (0.50, -0.16, 0.13), (-0.06, -0.12, 0.12)] {
            b.detail(disc(u - x, v - y, radius).max(cap), [0.97, 0.95, 0.90]);
        }
    }

    fn boat(&self, b: &mut Brush) {
        let (u, v, top) = (b.u, b.v, -0.88 - 0.07 * self.build);
        b.part(rectangle(u, v + 0.22, 0.045, 0.68, 0.0), [0.40, 0.28, 0.18]);
        b.part(polygon(u, v, &[(0.07, top), (0.07, 0.20), (0.78, 0.20)]), [0.96, 0.95, 0.90]);
        b.part(polygon(u, v, &[(-0.08, -0.66), (-0.08, 0.20), (-0.62, 0.20)]), self.accent);
        b.part(polygon(u, v, &[(-0.96, 0.34), (0.96, 0.34), (0.62, 0.80), (-0.66, 0.80)]) - 0.02, self.body);
        b.detail((v - 0.46).abs() - 0.06, [0.97; 3]);
    }

    fn flower(&self, b: &mut Brush) {
        let (u, v, petal) = (b.u, b.v, 0.25 + 0.03 * self.build);
        let green = [0.25, 0.55, 0.22];
        b.part(rectangle(u, v - 0.52, 0.06, 0.46, 0.0), green);
        b.part(ellipse(u - 0.26, v - 0.62 + 0.4 * (u - 0.26), 0.25, 0.12), green);
        for i in 0..6 {
            let (sin, cos) = (i as f32 * std::f32::consts::PI / 3.0).sin_cos();
            b.part(disc(u - 0.40 * sin, v + 0.32 - 0.40 * cos, petal), times(self.body, if i % 2 == 0 { 1.0 } else { 0.88 }));
        }
        b.part(disc(u, v + 0.32, 0.22), mix([0.98, 0.82, 0.20], self.accent, 0.25));
    }
}

/// One pixel of the object being painted, part over part.
struct Brush {
    /// Place in the object's own coordinates: it fills about -1 to 1, v points down.
    u: f32,
    v: f32,
    colour: Colour,
    /// Signed distance to everything painted so far.
    edge: f32,
    pixel: f32,
    shade: f32,
}

impl Brush {
    fn cover(&self, distance: f32) -> f32 {
        (0.5 - distance / self.pixel).clamp(0.0, 1.0)
    }

    /// Paints a part of the object; its inner edges are drawn as a darker line.
    fn part(&mut self, distance: f32, colour: Colour) {
        let line = 1.0 - 0.22 * bump(distance.min(0.0), 0.05);
        self.colour = mix(self.colour, times(colour, self.shade * line), self.cover(distance));
        self.edge = self.edge.min(distance);
    }

    /// Paints on what is there already, never beyond its edge.
    fn detail(&mut self, distance: f32, colour: Colour) {
        let covered = self.cover(distance.max(self.edge));
        self.colour = mix(self.colour, times(colour, self.shade), covered);
    }
}

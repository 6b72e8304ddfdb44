//! `mtv-bench arch [NETWORK]`: the layers of a network with shapes, parameters and multiply-accumulates; without a name, Tables I
//! and II of the paper and a list of every network, all made from the constructors that the studies use.

use std::fmt::Write as _;
use std::path::PathBuf;

use candle_core::{DType, Device};

use crate::generators::{self, Family, Layout, biggan, stylegan1};
use crate::inverters::mtv;
use crate::params::{Declared, Params};
use crate::report::html::escaped;
use crate::report::table::{aligned, latex};
use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {
    /// A network: pggan, stylegan1, stylegan2 or biggan, a size (128, 256, 512, 1024), and "encoder" in front for its encoder: stylegan1-1024, encoder-biggan-256
    network: Option<String>,
    /// Also write the tables to this folder as Markdown, LaTeX and HTML
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The sizes of the paper. BigGAN-deep has no published 1024 px model.
const SIZES: [usize; 4] = [128, 256, 512, 1024];

pub fn run(args: Args) -> Result<()> {
    let tables = match &args.network {
        Some(name) => vec![Network::parse(name)?.layers()?],
        None => vec![table_1()?, table_2()?, every_network()?],
    };
    for (i, table) in tables.iter().enumerate() {
        println!("{}{}", if i > 0 { "\n" } else { "" }, table.text().trim_end());
    }
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot be made", e))?;
        for table in &tables {
            for (ending, text) in [("md", table.markdown()), ("tex", table.latex()), ("html", table.html())] {
                write_whole(&dir.join(format!("{}.{ending}", table.file)), &text)?;
            }
        }
    }
    Ok(())
}

/// Writes beside the file and renames, so that no half-written file is ever seen.
fn write_whole(path: &std::path::Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text).map_err(|e| Error::io(&part, "cannot be written", e))?;
    std::fs::rename(&part, path).map_err(|e| Error::io(path, "cannot be written", e))
}

/// A generator of the paper, or the encoder that fits it.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    pub family: Family,
    pub size: usize,
    pub encoder: bool,
}

/// One tensor with its cost for one image.
struct Part {
    name: String,
    shape: Vec<usize>,
    resolution: usize,
    macs: u64,
}

impl Network {
    pub fn parse(name: &str) -> Result<Self> {
        let (encoder, rest) = match name.strip_prefix("encoder-") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let found = rest.rsplit_once('-').and_then(|(family, size)| {
            let family = Family::ALL.into_iter().find(|f| f.name() == family)?;
            Some(Network { family, size: size.parse().ok()?, encoder })
        });
        match found {
            Some(network) if Network::all().any(|n| (n.family, n.size) == (network.family, network.size)) => Ok(network),
            _ => {
                let names: Vec<String> = Network::all().filter(|n| !n.encoder).map(|n| n.name()).collect();
                Err(Error::usage(format!("no network is called \"{name}\"; there are {} and encoder-… of each", names.join(", "))))
            }
        }
    }

    /// Every network of the paper: generators first.
    pub fn all() -> impl Iterator<Item = Network> {
        let sizes = |family: Family| if family == Family::BigGan { &SIZES[..3] } else { &SIZES[..] };
        [false, true].into_iter().flat_map(move |encoder| {
            Family::ALL.into_iter().flat_map(move |family| sizes(family).iter().map(move |&size| Network { family, size, encoder }))
        })
    }

    pub fn name(&self) -> String {
        format!("{}{}-{}", if self.encoder { "encoder-" } else { "" }, self.family.name(), self.size)
    }

    /// What the constructor asks for, and the layout of the generator.
    fn declared(&self) -> Result<(Vec<Declared>, Layout)> {
        let p = Params::outline(DType::F32, &Device::Cpu);
        let layout = generators::paper(self.family, self.size, &p)?.layout().clone();
        if !self.encoder {
            return Ok((p.declared(), layout));
        }
        let p = Params::outline(DType::F32, &Device::Cpu);
        mtv::Encoder::new(&mtv::Config::for_generator(&layout)?, &p)?;
        Ok((p.declared(), layout))
    }

    /// Its parameters, in the order in which they are used, without buffers.
    fn parts(&self) -> Result<Vec<Part>> {
        let (declared, layout) = self.declared()?;
        let is_buffer = |name: &str| ["weight_u", "weight_v", "running_means", "running_vars"].iter().any(|b| name.ends_with(b));
        let parts = declared.into_iter().filter(|d| !is_buffer(&d.name)).map(|d| {
            let (resolution, macs) =
                if self.encoder { encoder_cost(&d.name, &d.shape, self) } else { generator_cost(&d.name, &d.shape, &layout) };
            Part { name: d.name, shape: d.shape, resolution, macs }
        });
        Ok(parts.collect())
    }

    /// (parameters, multiply-accumulates for one image).
    pub fn totals(&self) -> Result<(u64, u64)> {
        let parts = self.parts()?;
        let filters: u64 = if self.encoder { 0 } else { filter_cost(&self.declared()?.1) };
        let parameters = parts.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum();
        Ok((parameters, parts.iter().map(|p| p.macs).sum::<u64>() + filters))
    }

    fn layers(&self) -> Result<Table> {
        let mut rows = vec![["tensor", "at px", "shape", "parameters", "MMAC"].map(String::from).to_vec()];
        for part in self.parts()? {
            let shape: Vec<String> = part.shape.iter().map(usize::to_string).collect();
            let at = if part.resolution == 0 { String::new() } else { part.resolution.to_string() };
            let parameters = grouped(part.shape.iter().product::<usize>() as u64);
            let macs = if part.macs == 0 { String::new() } else { format!("{:.2}", part.macs as f64 / 1e6) };
            rows.push(vec![part.name, at, shape.join(" x "), parameters, macs]);
        }
        let (parameters, macs) = self.totals()?;
        rows.push(vec!["total".into(), String::new(), String::new(), grouped(parameters), format!("{:.2}", macs as f64 / 1e6)]);
        let mut notes = vec!["MMAC: millions of multiply-accumulates for one image; the total includes the fixed filters.".to_string()];
        notes.extend(self.note().map(String::from));
        Ok(Table { file: format!("arch-{}", self.name()), title: format!("Layers of {}", self.name()), rows, notes })
    }

    fn note(&self) -> Option<&'static str> {
        match (self.encoder, self.family) {
            (false, Family::BigGan) => {
                Some("BigGAN: the published last layer has as many outputs as inputs; three of them are computed, as three are used.")
            }
            (false, Family::Pggan | Family::StyleGan1) => {
                Some("Every resolution has a toRGB layer; only the last one runs and is counted.")
            }
            _ => None,
        }
    }
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().map(|&d| d as u64).product()
}

/// The first number in a name, and the part of the name behind it.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let rest = name.strip_prefix(prefix)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..end].parse().ok()?, &rest[end..]))
}

/// Resolution of a generator's tensor (0: none) and its multiply-accumulates.
fn generator_cost(name: &str, shape: &[usize], layout: &Layout) -> (usize, u64) {
    let full = product(shape);
    let at = |r: usize| (r * r) as u64;
    if !name.contains("weight") || shape.len() < 2 || name.contains("noise_weight") || name.contains("const") {
        return (0, 0);
    }
    let last = layout.resolution;
    match layout.family {
        Family::StyleGan1 => match (numbered(name, "Gs.decode_block."), numbered(name, "Gs.to_rgb.")) {
            (Some((i, ".conv_1.weight")), _) if 4 << i >= stylegan1::FUSED_FROM => (4 << i, full / 9 * 16 * at(2 << i)),
            (Some((i, rest)), _) if rest.starts_with(".conv_") => (4 << i, full * at(4 << i)),
            (Some((i, _)), _) => (4 << i, full),
            (_, Some((i, _))) => (4 << i, if 4 << i == last { full * at(last) } else { 0 }),
            _ => (0, full),
        },
        Family::StyleGan2 => match (numbered(name, "synthesis.layer"), numbered(name, "synthesis.output")) {
            // Layer 2k - 1 doubles to 4 * 2^k px and runs on the map before; layer 2k stands at 4 * 2^k px.
            (Some((i, ".weight")), _) => (4 << i.div_ceil(2), full * at(4 << (i / 2))),
            (Some((i, _)), _) => (4 << i.div_ceil(2), full),
            (_, Some((k, ".weight"))) => (4 << k, full * at(4 << k)),
            (_, Some((k, _))) => (4 << k, full),
            _ => (0, full),
        },
        Family::Pggan => match (numbered(name, "layer"), numbered(name, "output")) {
            (Some((i, _)), _) => (4 << (i / 2), full * at(4 << (i / 2))),
            (_, Some((k, _))) => (4 << k, if 4 << k == last { full * at(last) } else { 0 }),
            _ => (0, 0),
        },
        Family::BigGan => biggan_cost(name, shape, layout),
    }
}

fn biggan_cost(name: &str, shape: &[usize], layout: &Layout) -> (usize, u64) {
    let (full, last) = (product(shape), layout.resolution);
    let at = |r: usize| (r * r) as u64;
    let cfg = biggan::Config::paper(last);
    let Some((index, rest)) = numbered(name, "generator.layers.") else {
        return match name {
            "generator.conv_to_rgb.weight_orig" => (last, full / shape[0] as u64 * 3 * at(last)),
            "embeddings.weight" => (0, 0),
            _ => (4, full),
        };
    };
    // The blocks before this index decide the resolution; the attention takes an index of its own.
    let position = cfg.attention_layer_position;
    let block = if index > position { index - 1 } else { index };
    let ups = |blocks: usize| cfg.layers[..blocks.min(cfg.layers.len())].iter().filter(|layer| layer.0).count();
    let (before, after) = (4 << ups(block), 4 << ups(block + 1));
    if index == position {
        // The two matrix products: theta with the pooled phi, the result with the pooled g.
        let product = match rest {
            _ if rest.contains("phi") => at(before) * at(before / 2) * shape[0] as u64,
            _ if rest.contains("_g.") => at(before) * at(before / 2) * shape[0] as u64,
            _ => 0,
        };
        return (before, full * at(before) + product);
    }
    match rest {
        _ if rest.starts_with(".conv_0") => (before, full * at(before)),
        _ if rest.starts_with(".conv_") => (after, full * at(after)),
        _ => (before, full),
    }
}

/// The fixed filters: StyleGANv1's blur (3x3) behind each doubling; StyleGANv2's FIR (4x4) there and on the image.
fn filter_cost(layout: &Layout) -> u64 {
    let blocks = layout.channels.iter().skip(1);
    let of = |taps: u64, maps: &dyn Fn(usize) -> usize| blocks.clone().map(|&(r, c)| taps * (maps(c) * r * r) as u64).sum();
    match layout.family {
        Family::StyleGan1 => of(9, &|c| c),
        Family::StyleGan2 => of(16, &|c| c + 3),
        _ => 0,
    }
}

/// As [`generator_cost`], for the encoders of Tables I and II.
fn encoder_cost(name: &str, shape: &[usize], network: &Network) -> (usize, u64) {
    let full = product(shape);
    let at = |r: usize| (r * r) as u64;
    if shape.len() < 2 || name.contains("noise_weight") || name.contains("bias") || name.contains("instance_norm") {
        return (0, 0);
    }
    match numbered(name, "decode_block.") {
        Some((i, rest)) => {
            let r = network.size >> i;
            let mixes = matches!(network.family, Family::StyleGan1 | Family::StyleGan2);
            match rest {
                ".conv_3.weight" if mixes => (r / 2, full * at(r / 2)),
                _ if rest.starts_with(".conv_") => (r, full * at(r)),
                _ => (r, full),
            }
        }
        None if name.starts_with("FromRGB") => (network.size, full * at(network.size)),
        None => (4, full),
    }
}

/// A table that a reader sees: the first row is its head.
pub struct Table {
    /// File name without ending.
    pub file: String,
    pub title: String,
    pub rows: Vec<Vec<String>>,
    pub notes: Vec<String>,
}

impl Table {
    pub fn text(&self) -> String {
        let notes: String = self.notes.iter().map(|n| format!("* {n}\n")).collect();
        format!("{}\n\n{}\n{notes}", self.title, aligned(&self.rows))
    }

    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n", self.title);
        for (i, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().map(|c| c.replace('|', "\\|")).collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
            if i == 0 {
                let _ = writeln!(out, "|{}", "---|".repeat(row.len()));
            }
        }
        for note in &self.notes {
            let _ = write!(out, "\n{note}\n");
        }
        out
    }

    pub fn latex(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let mut out = format!("\\begin{{table}}\n\\caption{{{}}}\n\\begin{{tabular}}{{{}}}\n", latex(&self.title), "l".repeat(columns));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|c| latex(c)).collect();
            let _ = writeln!(out, "{} \\\\", cells.join(" & "));
        }
        out.push_str("\\end{tabular}\n\n");
        for note in &self.notes {
            let _ = writeln!(out, "{}\n", latex(note));
        }
        out + "\\end{table}\n"
    }

    pub fn html(&self) -> String {
        let mut out =
            format!("<!doctype html>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<h1>{0}</h1>\n<table>\n", escaped(&self.title));
        for (i, row) in self.rows.iter().enumerate() {
            let tag = if i == 0 { "th" } else { "td" };
            let cells: String = row.iter().map(|c| format!("<{tag}>{}</{tag}>", escaped(c))).collect();
            let _ = writeln!(out, "<tr>{cells}</tr>");
        }
        out.push_str("</table>\n");
        for note in &self.notes {
            let _ = writeln!(out, "<p>{}</p>", escaped(note));
        }
        out
    }
}

/// 1234567 as "1 234 567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(d);
    }
    out
}

/// One column of Table I or II: two entries per block, the second of the last block being the head.
fn column(network: Network) -> Result<Vec<String>> {
    let (declared, layout) = network.declared()?;
    let config = mtv::Config::for_generator(&layout)?;
    let shape = |name: String| declared.iter().find(|d| d.name == name).map(|d| d.shape.clone());
    let linear = |name: &str| shape(format!("{name}.weight")).map(|s| format!("FC({}, {})", s[1], s[0]));
    let mut cells = Vec::new();
    for i in 0..config.blocks {
        let block = format!("decode_block.{i}");
        for half in 1..=2 {
            let Some(conv) = shape(format!("{block}.conv_{half}.weight")) else {
                let row = linear(&format!("{block}.inver_mod{half}"));
                let heads = ["new_final", "new_final_1", "new_final_2"].iter().filter_map(|name| linear(name));
                cells.push(row.map(|fc| format!("4: {fc}, IN")).into_iter().chain(heads).collect::<Vec<_>>().join(", "));
                continue;
            };
            let mut parts = Vec::new();
            parts.extend(shape(format!("{block}.inver_mod{half}.weight")).map(|_| "FC".to_string()));
            parts.push(if config.norm == mtv::Norm::Conditional { "CBN" } else { "IN" }.into());
            parts.push(format!("CONV({}, {}, {})", conv[1], conv[0], conv[2]));
            parts.extend(shape(format!("{block}.noise_weight_{half}")).map(|s| format!("P({})", s[1])));
            parts.push("L-ReLU".into());
            cells.push(format!("{}: {}", network.size >> i, parts.join(", ")));
        }
    }
    Ok(cells)
}

fn encoders(file: &str, title: &str, networks: &[Network], notes: &[&str]) -> Result<Table> {
    let columns = networks.iter().map(|n| column(*n)).collect::<Result<Vec<_>>>()?;
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let head = std::iter::once("block".to_string()).chain(networks.iter().map(|n| format!("{}, {} px", n.family.name(), n.size)));
    let mut rows = vec![head.collect::<Vec<_>>()];
    for i in 0..height {
        let number = if i % 2 == 0 { (i / 2 + 1).to_string() } else { String::new() };
        rows.push(std::iter::once(number).chain(columns.iter().map(|c| c.get(i).cloned().unwrap_or_default())).collect());
    }
    let total =
        |n: &Network| n.totals().map(|(parameters, macs)| format!("{} parameters, {:.2} GMAC", grouped(parameters), macs as f64 / 1e9));
    let totals = networks.iter().map(total).collect::<Result<Vec<_>>>()?;
    rows.push(std::iter::once("total".to_string()).chain(totals).collect());
    Ok(Table { file: file.into(), title: title.into(), rows, notes: notes.iter().map(|n| n.to_string()).collect() })
}

const UPSIDE_DOWN: &str = "The number in front of each entry is the resolution at which it works. The paper's table prints this column upside down: \
    block 1, the narrow one, works at full resolution and the last block at 4x4.";
const NOT_SHOWN: &str =
    "Not shown, as in the paper: in front of block 1 a CONV(3, C, 1) from RGB; behind every block but the last a 2x2 average pooling.";

/// Table I, from the encoder's constructor.
pub fn table_1() -> Result<Table> {
    let networks = [256, 512, 1024].map(|size| Network { family: Family::StyleGan1, size, encoder: true });
    encoders(
        "table-1",
        "Table I. Encoder architectures for the StyleGANs",
        &networks,
        &[
            UPSIDE_DOWN,
            "P(n) is the learned noise strength z_n' of n channels, added behind its convolution: n is C_in for the first and C_out for the \
             second of a block. The paper says C_in for both.",
            "FC takes the 2 C_in statistics (mean and standard deviation) of what enters its half block to one row of w' (512). The last half block \
             has no convolution: its FC emits a row, and its instance norm, mixed with the block's input, is z_c' (512 x 4 x 4).",
            "A block's result is 0.111 times its two convolutions plus 0.889 times its input (through a 1x1 convolution where the channels change); the \
             paper does not say so.",
            NOT_SHOWN,
        ],
    )
}

/// Table II, from the encoder's constructor.
pub fn table_2() -> Result<Table> {
    let of = |family: Family, size: usize| Network { family, size, encoder: true };
    encoders(
        "table-2",
        "Table II. Encoder architectures for PGGAN and BigGAN",
        &[of(Family::Pggan, 256), of(Family::BigGan, 256), of(Family::BigGan, 512)],
        &[
            UPSIDE_DOWN,
            "PGGAN has neither w nor noise; its E emits z' (512), which the paper's footnote calls z_c'.",
            "The paper's table has \"CONV, IN\" in place of \"IN, CONV\" in one half block of PGGAN; every other one, and the released code, normalises first.",
            "BigGAN has no w; its E emits c' (256) and from it z' (128). CBN has constant mean and variance, but its scale and offset are learned maps of c.",
            NOT_SHOWN,
        ],
    )
}

/// Every network of the paper with its size and cost.
pub fn every_network() -> Result<Table> {
    let mut rows = vec![["network", "parameters", "GMAC per image"].map(String::from).to_vec()];
    for network in Network::all() {
        let (parameters, macs) = network.totals()?;
        rows.push(vec![network.name(), grouped(parameters), format!("{:.2}", macs as f64 / 1e9)]);
    }
    let notes = [false, true].iter().flat_map(|&encoder| Family::ALL.map(|family| Network { family, size: 256, encoder }.note()));
    let mut notes: Vec<String> = notes.flatten().map(String::from).collect();
    notes.dedup();
    Ok(Table { file: "networks".into(), title: "Networks".into(), rows, notes })
}

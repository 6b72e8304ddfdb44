//! The `[recipe]` table of a study or an arm: a preset (the paper's text or the released code), a case of section IV, and
//! tables of values that replace some of the preset's.

use serde::{Deserialize, Serialize};

use crate::objective::{
    AttentionPatch, EncoderPatch, LatentPatch, OptimizerPatch, Recipe, RecipePatch, SamplingPatch, TermPatch, Types, WeightPatch,
};

/// Which values a recipe starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The paper's equations and text.
    #[default]
    Paper,
    /// The authors' released code.
    Released,
}

/// A recipe as written. An arm's recipe replaces whole tables of the study's; the tables are those of [`Recipe`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// 1: the reconstruction is detached, plain encoder. 2: gradients through the generator, blur encoder, mu (5, 9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<TermPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerPatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingPatch>,
}

/// What is wrong in a recipe, and where.
#[derive(Debug)]
pub struct Fault {
    pub table: &'static str,
    pub key: &'static str,
    pub message: String,
}

impl RecipeSpec {
    /// This recipe, with what it leaves out taken from `study`.
    pub fn over(&self, study: &RecipeSpec) -> RecipeSpec {
        RecipeSpec {
            preset: self.preset.or(study.preset),
            case: self.case.or(study.case),
            latents: self.latents.clone().or(study.latents.clone()),
            terms: self.terms.clone().or(study.terms.clone()),
            weights: self.weights.clone().or(study.weights.clone()),
            attention: self.attention.clone().or(study.attention.clone()),
            encoder: self.encoder.clone().or(study.encoder.clone()),
            optimizer: self.optimizer.clone().or(study.optimizer.clone()),
            sampling: self.sampling.clone().or(study.sampling.clone()),
        }
    }

    /// Whether this recipe itself has the table or key.
    pub fn gives(&self, table: &str) -> bool {
        match table {
            "preset" => self.preset.is_some(),
            "case" => self.case.is_some(),
            "latents" => self.latents.is_some(),
            "terms" => self.terms.is_some(),
            "weights" => self.weights.is_some(),
            "attention" => self.attention.is_some(),
            "encoder" => self.encoder.is_some(),
            "optimizer" => self.optimizer.is_some(),
            "sampling" => self.sampling.is_some(),
            _ => false,
        }
    }

    /// Every value of the recipe, for an arm with these latents.
    pub fn resolve(&self, types: Types) -> Result<Recipe, Fault> {
        let mut recipe = match (self.preset.unwrap_or_default(), self.case.unwrap_or(1)) {
            (Preset::Paper, 1) => Recipe::paper(),
            (Preset::Paper, 2) => Recipe::paper().case2(),
            (Preset::Released, 1) => Recipe::released(),
            (Preset::Released, 2) => Recipe::released().released_case2(),
            (_, case) => return Err(Fault { table: "case", key: "", message: format!("the paper has case 1 and case 2, not {case}") }),
        };
        if self.latents.as_ref().is_some_and(|l| l.types.is_some()) {
            return Err(Fault { table: "latents", key: "types", message: "the types of latents are the arm's own `latents`".into() });
        }
        let patch = RecipePatch {
            latents: self.latents.clone().unwrap_or_default(),
            terms: self.terms.clone().unwrap_or_default(),
            weights: self.weights.clone().unwrap_or_default(),
            attention: self.attention.clone().unwrap_or_default(),
            encoder: self.encoder.clone().unwrap_or_default(),
            optimizer: self.optimizer.clone().unwrap_or_default(),
            sampling: self.sampling.clone().unwrap_or_default(),
        };
        patch.apply(&mut recipe);
        recipe.latents.types = types;
        check(&recipe)?;
        Ok(recipe)
    }
}

/// The ranges that the types do not say.
fn check(r: &Recipe) -> Result<(), Fault> {
    let at = |table, key, message: &str| Err(Fault { table, key, message: message.into() });
    let w = &r.weights;
    let weights = [("distance", w.distance), ("cosine", w.cosine), ("kl", w.kl), ("perceptual", w.perceptual), ("ssim", w.ssim)];
    let nus = [("nu_w", r.latents.nu_w), ("nu_c", r.latents.nu_c), ("nu_n", r.latents.nu_n)];
    for (table, list) in [("weights", weights.as_slice()), ("latents", nus.as_slice())] {
        if let Some((key, _)) = list.iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            return at(table, key, "a weight is a number of 0 or more");
        }
    }
    if r.attention.mu.iter().any(|v| !(v.is_finite() && *v >= 0.0)) {
        return at("attention", "mu", "a weight is a number of 0 or more");
    }
    let o = &r.optimizer;
    if !(o.lr.is_finite() && o.lr > 0.0) {
        return at("optimizer", "lr", "a learning rate is a number above 0");
    }
    for (key, v) in [("beta1", o.beta1), ("beta2", o.beta2)] {
        if !(0.0..1.0).contains(&v) {
            return at("optimizer", key, "a decay rate lies between 0 and 1, 1 excluded");
        }
    }
    if !(o.eps.is_finite() && o.eps > 0.0) {
        return at("optimizer", "eps", "a number above 0 is expected");
    }
    if o.steps.is_empty() || o.steps.iter().any(Vec::is_empty) {
        return at("optimizer", "steps", "an iteration needs at least one step, and a step at least one part of the loss");
    }
    if !(0.0..=1.0).contains(&r.sampling.psi) {
        return at("sampling", "psi", "a truncation psi lies between 0 and 1");
    }
    Ok(())
}

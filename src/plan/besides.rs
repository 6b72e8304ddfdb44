//! The stages of what a study measures beside the scores of pairs: factors of the images, identities, Fréchet distances.

use super::StageSpec;
use crate::Result;
use crate::record::factors::Origin;
use crate::spec::Card;
use crate::spec::experiment::{Resolved, Subject};
use crate::stages::{FactorSet, FactorsSpec, FrechetSpec, IdentitySpec, Method, Networks, factors, identity};

/// What is measured of one subject beside the scores of pairs.
pub(super) struct Besides<'a> {
    resolved: &'a Resolved,
    subject: &'a Subject<'a>,
    /// The card of the pictures that its generator learned from.
    data: Option<String>,
    factors: Vec<FactorSet>,
}

/// The judge of a procedural source.
pub(super) fn judge_of(data: &str) -> Option<String> {
    factors::source(data).ok().flatten().map(|source| source.judge().to_string())
}

impl<'a> Besides<'a> {
    pub(super) fn of(resolved: &'a Resolved, subject: &'a Subject<'a>) -> Result<Self> {
        let data = Card::load(&subject.networks.generator)?.data;
        let mut found = Vec::new();
        for set in subject.sets.iter().filter(|_| resolved.besides.factors) {
            let origin = if set.source.is_some() { Origin::Known } else { Origin::Read };
            let Some(data) = set.source.as_ref().or(data.as_ref()) else { continue };
            if factors::source(data)?.is_some() {
                found.push(FactorSet { set: set.set.clone(), data: data.clone(), origin });
            }
        }
        Ok(Besides { resolved, subject, data, factors: found })
    }

    pub(super) fn factors(&self) -> Option<StageSpec> {
        (!self.factors.is_empty()).then(|| StageSpec::Factors(FactorsSpec { sets: self.factors.clone() }))
    }

    pub(super) fn identity(&self, method: &Method, images: Option<usize>) -> Option<StageSpec> {
        let identity = self.resolved.besides.identity.clone().filter(|_| identity::makes_faces(self.data.as_deref()))?;
        let (networks, method, seed, batch) = self.common(method);
        Some(StageSpec::Identity(Box::new(IdentitySpec { networks, method, seed, identity, images, batch })))
    }

    /// The stage, and its number of images.
    pub(super) fn frechet(&self, method: &Method) -> Option<(StageSpec, u64)> {
        let images = self.resolved.besides.frechet?;
        let set = self.subject.sets.iter().find(|s| s.source.is_none())?.set.clone();
        let (networks, method, seed, batch) = self.common(method);
        let spec = FrechetSpec { networks, method, seed, set, images, data: self.data.clone(), features: self.features(), batch };
        Some((StageSpec::Frechet(Box::new(spec)), images as u64))
    }

    fn common(&self, method: &Method) -> (Networks, Method, u64, usize) {
        (self.subject.networks.clone(), method.clone(), self.resolved.evaluation_seed, self.resolved.evaluation_batch)
    }

    /// The network of the Fréchet distance: the source's own judge, or the field's.
    fn features(&self) -> String {
        self.data.as_deref().and_then(judge_of).unwrap_or_else(|| "inception_fid".into())
    }

    pub(super) fn cards(&self) -> Vec<String> {
        let (besides, faces) = (&self.resolved.besides, identity::makes_faces(self.data.as_deref()));
        let factors = self.factors.iter().flat_map(|set| [Some(set.data.clone()), judge_of(&set.data)]).flatten();
        let frechet = besides.frechet.iter().flat_map(|_| self.data.clone().into_iter().chain([self.features()]));
        factors.chain(frechet).chain(besides.identity.clone().filter(|_| faces)).collect()
    }
}

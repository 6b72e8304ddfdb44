//! What the paper's text, its released code and a study may differ in, as plain values. A preset is a full set of values, a
//! patch replaces some of them; no code asks for the name of a recipe.

use serde::{Deserialize, Serialize};

use crate::inverters::mtv::Fused;
use crate::optim::Rule;

/// Declares a table of values and the patch that replaces some of them.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident, $patch:ident { $($(#[$about:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$about])* pub $field: $kind,)* }

        #[doc = concat!("Values that replace those of [`", stringify!($name), "`].")]
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $patch { $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)* }

        impl $patch {
            /// Replaces what this patch gives.
            pub fn apply(&self, table: &mut $name) {
                $(if let Some(value) = &self.$field { table.$field = value.clone(); })*
            }
        }
    )*};
}

/// Declares an enum whose values have the given names in files.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $value:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$about])* #[serde(rename = $text)] $value,)* }

        impl $name {
            /// The name in files.
            pub fn name(self) -> &'static str {
                match self { $($name::$value => $text,)* }
            }
        }
    )*};
}

names! {
    /// What the encoder emits for a StyleGAN: the arms of Fig. 9. Each has all that the one before has, from w/2 on.
    Types {
        Z = "z",
        WHalf = "w/2",
        W = "w",
        WZn = "w+zn",
        WZnZc = "w+zn+zc",
    }
    /// Which pass of E gives the latents of Eq. 2.
    LatentsFrom {
        /// E(x).
        X = "x",
        /// E(x'), Algorithm 1 line 9 read literally.
        XPrime = "x_prime",
        /// The mean of both losses.
        Both = "both",
    }
    /// Which latents of E the generator decodes.
    DecodeWith {
        W = "w",
        WZc = "w+zc",
        WZcZn = "w+zc+zn",
    }
    /// How z_n and z_n' are compared.
    ZnPairing {
        /// By mirrored place in the network.
        Place = "place",
        Off = "off",
    }
    /// What the encoder of a BigGAN is told.
    BigGanCondition {
        /// [0; embed(y)]: what is known of a real image.
        Class = "class",
        /// [z; embed(y)]: the letter of the paper; the target leaks into E.
        Full = "full",
    }
    /// The first term of Eq. 3.
    Distance {
        /// Mean over the samples of the L2 norm of the difference, as printed.
        NormSample = "norm_sample",
        /// L2 norm of the whole difference over the batch size.
        NormBatch = "norm_batch",
        /// Mean squared error, the text's own word and the released code.
        Mse = "mse",
    }
    /// The second term of Eq. 3: 1 - cosine.
    Cosine {
        /// Per flattened sample.
        Sample = "sample",
        /// Along the last axis.
        Last = "last",
        /// One cosine for the whole batch (released).
        Batch = "batch",
    }
    /// Eq. 4, the Kullback-Leibler divergence of softmaxes.
    Kl {
        /// KL(S(reconstruction) || S(target)), softmax over the sample.
        ReverseSample = "reverse_sample",
        /// The same over the last axis, mean over its rows.
        ReverseLast = "reverse_last",
        /// KL(S(target) || S(reconstruction)), softmax over the sample.
        ForwardSample = "forward_sample",
        /// Forward, mean over all elements, softmax over axis 0 for tensors of one or three axes and else over axis 1; NaN
        /// becomes 0 and infinity 1.
        Released = "released",
    }
    /// The perceptual term of Eq. 7.
    Perceptual {
        /// Sum over five layers of the mean squared feature difference.
        FeatureMse = "feature_mse",
        /// LPIPS v0.1 (released).
        Lpips = "lpips",
    }
    /// The SSIM term of Eq. 7.
    SsimKind {
        /// No padding; constants for the range of the data.
        Valid = "valid",
        /// Zero padding; constants for range 1 (released).
        ZeroPad = "zero_pad",
    }
    /// The two views beside the whole image (Section III.C).
    Views {
        None = "none",
        /// Center crops, resized back.
        Center = "center",
        /// Center crops as released: 0.75 of the width, 0.6875 of both sides, not resized.
        CenterCrop = "center_crop",
        /// Grad-CAM map, and map times image; with gradient.
        GradCam = "grad_cam",
        /// "Grad-CAM++" map of the released code, and its colours over the image; no gradient.
        GradCamReleased = "grad_cam_released",
    }
    /// From which losses the gradient of the reconstruction is kept away.
    Detach {
        Nothing = "nothing",
        Views = "views",
        /// Case 1: E learns from latents only.
        All = "all",
    }
    /// Which encoders have noise and z_n'.
    EncoderNoise {
        StyleGan = "stylegan",
        /// Every one (released).
        All = "all",
    }
    /// Update rule.
    RuleKind {
        Adam = "adam",
        LreqAdam = "lreq_adam",
    }
    /// A part of the loss that an optimizer step may take by itself.
    Group {
        /// L_TSA(x, x').
        Image = "image",
        View1 = "view_1",
        View2 = "view_2",
        /// L_MTV.
        Latents = "latents",
    }
    /// What an optimizer step does with a parameter that got no gradient.
    NoGradient {
        /// Leaves it (PyTorch from 2.0 on).
        Skip = "skip",
        /// Takes a zero gradient, which decays the second moment (PyTorch before 2.0, which the release names).
        Zero = "zero",
    }
    /// Noise of E and G in training.
    NoisePolicy {
        /// Drawn for each of x, E and x'.
        Fresh = "fresh",
        /// The same for x and x'.
        Shared = "shared",
        /// The same for every image and step.
        Fixed = "fixed",
    }
}

tables! {
    /// Multi-type latents, Eqs. 2 to 5 and Algorithm 1 line 11.
    LatentTable, LatentPatch {
        types: Types,
        latents_from: LatentsFrom,
        decode_with: DecodeWith,
        zn_pairing: ZnPairing,
        /// Weight of w, or of z.
        nu_w: f64,
        /// Weight of z_c (of c for BigGAN).
        nu_c: f64,
        /// Weight of z_n.
        nu_n: f64,
        biggan_condition: BigGanCondition,
    }
    /// How two tensors are compared: Eqs. 3, 4, 6, 7.
    TermTable, TermPatch {
        distance: Distance,
        cosine: Cosine,
        kl: Kl,
        perceptual: Perceptual,
        ssim: SsimKind,
    }
    /// Weights of the terms; a term of weight 0 is not computed.
    WeightTable, WeightPatch {
        distance: f64,
        cosine: f64,
        kl: f64,
        /// Images only.
        perceptual: f64,
        /// Images only.
        ssim: f64,
    }
    /// Two-scale attention.
    AttentionTable, AttentionPatch {
        views: Views,
        /// Weights of the two views; a view of weight 0 is not computed.
        mu: [f64; 2],
        detach: Detach,
        /// Side in pixels to which images are enlarged before Grad-CAM's network sees them; 0 leaves them.
        cam_side: usize,
    }
    /// The encoder's shape, as far as the generator does not decide it.
    EncoderTable, EncoderPatch {
        blur: bool,
        fused: Fused,
        noise: EncoderNoise,
        /// Whether BigGAN's block has the second leaky ReLU of the release on the wrong tensor.
        released_biggan_block: bool,
    }
    /// Optimizer and its steps.
    OptimizerTable, OptimizerPatch {
        rule: RuleKind,
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        /// Adam acts on weight / coefficient (Section IV). LREQAdam always uses the coefficient in its own way.
        equalized: bool,
        /// The steps of one iteration, each on the sum of its groups; all use the graph of one forward pass.
        steps: Vec<Vec<Group>>,
        no_gradient: NoGradient,
    }
    /// What is drawn.
    SamplingTable, SamplingPatch {
        noise: NoisePolicy,
        /// Number of distinct batches, after which they repeat; 0: always new ones.
        distinct_batches: u64,
        /// Truncation psi of the first half of the rows of w (1: none).
        psi: f64,
        /// Whether StyleGANv2 and BigGAN sample as in training: style mixing, moving mean w, power iteration (released).
        generator_in_training: bool,
    }
}

/// Every value of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub latents: LatentTable,
    pub terms: TermTable,
    pub weights: WeightTable,
    pub attention: AttentionTable,
    pub encoder: EncoderTable,
    pub optimizer: OptimizerTable,
    pub sampling: SamplingTable,
}

/// Values that replace those of a [`Recipe`], table by table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipePatch {
    pub latents: LatentPatch,
    pub terms: TermPatch,
    pub weights: WeightPatch,
    pub attention: AttentionPatch,
    pub encoder: EncoderPatch,
    pub optimizer: OptimizerPatch,
    pub sampling: SamplingPatch,
}

impl RecipePatch {
    /// Replaces what this patch gives.
    pub fn apply(&self, recipe: &mut Recipe) {
        self.latents.apply(&mut recipe.latents);
        self.terms.apply(&mut recipe.terms);
        self.weights.apply(&mut recipe.weights);
        self.attention.apply(&mut recipe.attention);
        self.encoder.apply(&mut recipe.encoder);
        self.optimizer.apply(&mut recipe.optimizer);
        self.sampling.apply(&mut recipe.sampling);
    }
}

impl Recipe {
    /// The paper's equations and text, case 1; where the text is silent the released value.
    pub fn paper() -> Self {
        Recipe {
            latents: LatentTable {
                types: Types::WZnZc,
                latents_from: LatentsFrom::X,
                decode_with: DecodeWith::W,
                zn_pairing: ZnPairing::Place,
                nu_w: 0.01,
                nu_c: 0.01,
                nu_n: 1.0,
                biggan_condition: BigGanCondition::Class,
            },
            terms: TermTable {
                distance: Distance::NormSample,
                cosine: Cosine::Sample,
                kl: Kl::ReverseSample,
                perceptual: Perceptual::FeatureMse,
                ssim: SsimKind::Valid,
            },
            weights: WeightTable { distance: 1.0, cosine: 1.0, kl: 1.0, perceptual: 1.0, ssim: 1.0 },
            attention: AttentionTable { views: Views::Center, mu: [1.0, 1.0], detach: Detach::All, cam_side: 0 },
            encoder: EncoderTable { blur: false, fused: Fused::None, noise: EncoderNoise::StyleGan, released_biggan_block: false },
            optimizer: OptimizerTable {
                rule: RuleKind::Adam,
                lr: 0.0015,
                beta1: 0.0,
                beta2: 0.99,
                eps: 1e-8,
                equalized: true,
                steps: vec![vec![Group::Image, Group::View1, Group::View2, Group::Latents]],
                no_gradient: NoGradient::Skip,
            },
            sampling: SamplingTable { noise: NoisePolicy::Fresh, distinct_batches: 0, psi: 0.7, generator_in_training: false },
        }
    }

    /// The authors' released code, case 1 (`E_align_s1.py` with the const term of the ablation scripts).
    pub fn released() -> Self {
        let mut r = Self::paper();
        r.latents.zn_pairing = ZnPairing::Off;
        r.latents.biggan_condition = BigGanCondition::Full;
        r.terms = TermTable {
            distance: Distance::Mse,
            cosine: Cosine::Batch,
            kl: Kl::Released,
            perceptual: Perceptual::Lpips,
            ssim: SsimKind::ZeroPad,
        };
        r.weights = WeightTable { distance: 5.0, cosine: 3.0, kl: 1.0, perceptual: 2.0, ssim: 1.0 };
        r.attention.views = Views::CenterCrop;
        r.encoder.noise = EncoderNoise::All;
        r.encoder.released_biggan_block = true;
        r.optimizer.rule = RuleKind::LreqAdam;
        r.optimizer.steps = vec![vec![Group::Image, Group::View1, Group::View2], vec![Group::Latents]];
        r.optimizer.no_gradient = NoGradient::Zero;
        r.sampling.distinct_batches = 30_000;
        r.sampling.generator_in_training = true;
        r
    }

    /// Section IV, case 2: mu (5, 9), the gradient passes the generator, blur encoder with blocks fused from 128 px up.
    pub fn case2(mut self) -> Self {
        self.attention.mu = [5.0, 9.0];
        self.attention.detach = Detach::Nothing;
        self.encoder.blur = true;
        self.encoder.fused = Fused::From128;
        self
    }

    /// Case 2 as released: the first four blocks are fused.
    pub fn released_case2(self) -> Self {
        let mut r = self.case2();
        r.encoder.fused = Fused::FirstFour;
        r
    }

    /// The update rule with its constants.
    pub fn rule(&self) -> Rule {
        let o = &self.optimizer;
        match o.rule {
            RuleKind::Adam => Rule::Adam { beta1: o.beta1, beta2: o.beta2, eps: o.eps, equalized: o.equalized },
            RuleKind::LreqAdam => Rule::LreqAdam { beta2: o.beta2, eps: o.eps },
        }
    }
}

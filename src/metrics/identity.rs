//! What the stage "identity" measures; a name says the network, and behind the `@` the side of the pictures or among how many targets.

use super::{Compute, Info};

/// The two measures by one network.
pub struct Measures {
    pub cosine: &'static Info,
    pub first: &'static Info,
}

const fn info(name: &'static str, title: &'static str, digits: usize, about: &'static str) -> Info {
    Info { name, title, higher_is_better: true, identical: 1.0, unit: "", digits, about, compute: Compute::Stage }
}

/// All of them, for tables.
pub const ALL: [Info; 4] = [
    info(
        "identity-mini",
        "identity",
        3,
        "cosine of the embeddings of target and reconstruction in the mini zoo's identity network (mini/identity), which takes part in no training",
    ),
    info(
        "identity-mini-first",
        "identity first",
        3,
        "1 where, by mini/identity, the image's own target is the nearest to its reconstruction among this many targets: its own and those that follow it in its set (all, where the set is smaller than 100); the mean is the share of images, chance is one in so many",
    ),
    info(
        "identity-ir-se50",
        "identity",
        3,
        "cosine of the ArcFace embeddings (IR-SE50 of TreB1eN, face cut out of 256 px as pSp does) of target and reconstruction",
    ),
    info(
        "identity-ir-se50-first",
        "identity first",
        3,
        "1 where, by IR-SE50, the image's own target is the nearest to its reconstruction among this many targets: its own and those that follow it in its set (all, where the set is smaller than 100); the mean is the share of images, chance is one in so many",
    ),
];

impl Measures {
    pub const MINI: Measures = Measures { cosine: &ALL[0], first: &ALL[1] };
    pub const IR_SE50: Measures = Measures { cosine: &ALL[2], first: &ALL[3] };
}

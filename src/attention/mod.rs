//! The two attentions of the paper (section III.C): center-aligned and Grad-CAM.

pub mod center;
pub mod grad_cam;

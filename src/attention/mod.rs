//! The two attentions of the paper: center-aligned and Grad-CAM.

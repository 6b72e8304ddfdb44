//! Feature networks: VGG16, LPIPS, FID Inception.

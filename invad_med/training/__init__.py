"""Training a denoiser on the cached features of normal images, and the one artefact it leaves."""

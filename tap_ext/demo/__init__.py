"""A small FLUX-shaped diffusion model that ships with the package, and the data it learned from."""

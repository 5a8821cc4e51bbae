"""A seeded simulator that drives the production core over simulated everything else."""

"""The kernel's FUSE protocol, spoken by ourselves: a volume as a mounted directory."""

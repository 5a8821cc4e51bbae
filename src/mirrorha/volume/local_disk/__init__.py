"""A directory of this machine as a volume's disk."""

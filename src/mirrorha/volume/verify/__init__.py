"""Comparing the two copies of a volume while both go on."""

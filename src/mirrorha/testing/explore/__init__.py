"""Small-scope exploration of the production core and the register."""

"""Places that keep the register."""

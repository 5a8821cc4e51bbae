"""A node: its parts, put together and run."""

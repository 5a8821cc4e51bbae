"""What a node keeps on its own disk: its meta, its history, the one atomic-write helper."""

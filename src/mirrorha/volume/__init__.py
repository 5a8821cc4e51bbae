"""One replicated directory: its stream, its resync, its file API."""

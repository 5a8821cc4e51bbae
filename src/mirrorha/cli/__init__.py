"""The `mirrorha` command."""

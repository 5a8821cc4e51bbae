"""`python -m mirrorha.cli`: the same as the `mirrorha` script."""

from __future__ import annotations

from mirrorha.cli import main

main()

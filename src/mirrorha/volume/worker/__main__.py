"""`python -m mirrorha.volume.worker DESCRIPTOR`: only ever started by an application's process."""

from mirrorha.volume.worker.process import main

main()

"""`python -m mirrorha.testing.explore`."""

import sys

from mirrorha.testing.explore.run import main

sys.exit(main())

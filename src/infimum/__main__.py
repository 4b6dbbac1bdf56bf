"""``python -m infimum``."""

import sys

from infimum.cli import main

sys.exit(main())

"""``python -m infimum.cli``."""

import sys

from infimum.cli import main

sys.exit(main())

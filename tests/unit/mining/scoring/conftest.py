"""Makes `scoring_kit` beside this file importable from the tests of the pair scorer."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

"""Here: `barlow doctor`: what this machine has, and whether its ranks keep what the package promises.

Not here: the test suite (a developer's), benchmarks, anything that training needs.
"""

from barlow.doctor.diagnose import diagnose, examine
from barlow.doctor.finding import Finding

__all__ = ["Finding", "diagnose", "examine"]

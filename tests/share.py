"""How much the tests try: one environment variable scales every count of random cases, and one seed fixes them.

`make test` leaves ATTNCC_TEST_SHARE at 0.1; `make test-all` sets it to 1.
"""

from __future__ import annotations

import os

SHARE = float(os.environ.get("ATTNCC_TEST_SHARE", "0.1"))
SEED = 20_260_101


def share(count: int) -> int:
    """This run's part of a full count of cases, at least 1."""
    return max(1, round(count * SHARE))

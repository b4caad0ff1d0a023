"""What makes registering operators quick: torch asks `inspect` where each registration stands.

To tell, `inspect` resolves the files of all modules that are loaded, some 1,200 with torch: 5 ms of an import that
takes 60 (AMD EPYC, 2026-11). It does not where it knows the file already.
"""

from __future__ import annotations

import inspect


def known_file(file: str, module: str) -> None:
    """Let `inspect` know which module a file is."""
    known = getattr(inspect, "modulesbyfile", None)  # not public: without it registering is slower
    if isinstance(known, dict):
        known.setdefault(file, module)

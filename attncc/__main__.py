"""`python -m attncc`: the same as the command `attncc`."""

from __future__ import annotations

from attncc.commands import main

if __name__ == "__main__":
    main()

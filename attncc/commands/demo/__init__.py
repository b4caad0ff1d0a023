"""`attncc demo`: the main job on real text. Train a small decoder twice, with attncc and with dense attention."""

from attncc.commands.demo.verb import demo

__all__ = ["demo"]

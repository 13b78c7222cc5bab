"""Purchases per second of one server process, ours beside its peers. See ``__main__``."""

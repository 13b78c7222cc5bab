"""The purchase contract: what any backend must do.

Pure data and pure functions, standard library only: no I/O, no clock, no randomness. Everything else in this repository
follows from these four files, so read them first:

* ``verdict``    every possible answer to a purchase attempt, and which one wins when several apply
* ``lifecycle``  the states of a purchase and every legal move between them
* ``wire``       names, limits and JSON of the HTTP contract; request parsing and answer building
* ``model``      a whole shop in one small class: slow, obvious, right; the oracle of the tests
"""

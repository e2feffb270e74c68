"""Checkers: the invariants of a cluster, each watched by one small class in a file of its own.

They see what the world shows them, independently of how the scheduler or an executor keeps its own
books, and raise `InvariantBroken` at the first contradiction. (One thing the world cannot show:
on which executor a promise is planned. That is read in the books, at the moment it is told.)

They are on in every run, and keep no more than what is open, so that long runs are checked, too.
"""

from cw.sim.checkers.checker import Checker, InvariantBroken
from cw.sim.checkers.every import Checkers, checkers_for
from cw.sim.checkers.shares import ShareRule

__all__ = ["Checker", "Checkers", "InvariantBroken", "ShareRule", "checkers_for"]

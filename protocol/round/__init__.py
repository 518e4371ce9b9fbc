"""The round machine: how nodes that come and go agree on one outer step. Sans-IO.

Events and the time go in, effects come out (types.py). machine.py moves between the phases; door.py decides
when to begin and plan.py with whom; exchange.py keeps the books of chunks; ballot.py counts votes.
"""

from atoll.protocol.round.machine import RoundMachine
from atoll.protocol.round.types import RoundConfig

__all__ = ["RoundConfig", "RoundMachine"]

"""The deterministic simulator: whole swarms of shipping parts in virtual time, from a seed.

One process, one heap of events, one generator: a seed has one history, whatever the machine. The round
machine, the roster, the replay log, the token account, fork choice, the rebase rules and the outer step are
those that ship; around them lie a simulated network (network.py), disk (disk.py) and clock (engine.py), and
synchronous twins of what the daemon does with asyncio (node.py, driver.py, island.py, recovery.py, store.py).
scenario.py draws what happens, invariants.py says what never may, chaos.py runs a seed.

Planning is beside it: timing.py has the closed forms, utilisation.py papers' tables, planning.py a swarm that
nobody has yet, and swarm.py the same swarm with the round machine over lines that have a speed.
"""

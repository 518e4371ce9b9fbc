"""What nodes say to each other: messages, signed bytes, codecs, the round machine. No sockets, no clock.

The written specification is SPEC.md beside this file.
"""

PROTOCOL_LOWEST = 1
PROTOCOL_HIGHEST = 1
"""Range of wire versions this software speaks; two nodes use the highest that both know."""

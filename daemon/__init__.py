"""The node: identity, links, DHT, rounds, trainer and page in one daemon, and the `atoll` command."""

"""The node: composes identity, links, DHT, rounds, trainer and page into one daemon, and the `atoll` command."""

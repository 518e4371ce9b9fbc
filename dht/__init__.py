"""How nodes are found: signed, expiring records on hivemind's DHT, in the daemon's own event loop."""

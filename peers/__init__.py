"""Who is out there: this node's identity, links to others, the roster of the living, files from them."""

"""What the page costs: the browser that shows it, and the node that serves it."""

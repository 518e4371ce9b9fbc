"""What Atoll costs and reaches, measured: each module is a command, README.md lists them."""

"""What ``python -m invad_med COMMAND`` runs: one module a command, see `invad_med.__main__`."""

"""The streaming engine: a plan of steps, computed in pieces by several threads, written in place, resumable."""

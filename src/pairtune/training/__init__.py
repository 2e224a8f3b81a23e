"""The loop: it sees tuners, objectives and constraints as protocols, never a method by name."""

"""The command line: a thin file a verb; `main` finds them, `frame` prints and catches, `dotted` reads flags."""

"""`python -m pairtune` is the command `pairtune`."""

from pairtune.cli.main import run

if __name__ == "__main__":
    run()

"""`python -m maquette` is `maquette`."""

from maquette.cli.main import entry

if __name__ == "__main__":
    entry()

"""`python -m maquette` is `maquette`."""

from maquette.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

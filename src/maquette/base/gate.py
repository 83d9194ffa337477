"""Files of a run's gate, which goes along with what is made of the run. `serving/api/gate.py` reads them."""

from pathlib import Path

from maquette.base.files import write_atomic

GATE, GATE_LOG = "gate.yaml", "gate.jsonl"


def copy_gate(origin: Path, folder: Path) -> None:
    """Gate a folder as `origin` is, if it is: its terms, and who was accepted until now."""
    for name in (GATE, GATE_LOG):  # the gate first: without its log nobody is admitted
        if not (origin / GATE).exists():
            return
        if (origin / name).exists():
            write_atomic(folder / name, (origin / name).read_bytes())

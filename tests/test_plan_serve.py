"""Plans of serving: bytes by hand, published speeds, what fits, devices by name."""

import pytest
from conftest import command, refused

from maquette.models.config import DecoderConfig
from maquette.models.published import published
from maquette.models.store import save_config
from maquette.scaling.devices import DEVICES
from maquette.scaling.serving_cost import BITS, serve, weight_bytes
from maquette.scaling.serving_devices import CLASSES, MEASURED, TABLE, serving_device
from maquette.serving.gguf import OF_OUTPUT, export_gguf
from maquette.serving.gguf_blocks import BLOCKS

WITHIN = 1.5  # how far a forecast may be from a published speed
PROMPT = 128  # tokens that the published runs had read, about


@pytest.mark.parametrize(("device", "model", "bits", "speed", "source"), MEASURED)
def test_forecasts_are_near_published_speeds_and_none_beats_its_memory(
    device, model, bits, speed, source
):
    row = serve(published(model).config, serving_device(device), bits, PROMPT)
    assert row.fits and source
    assert 1 / WITHIN < row.speed / speed < WITHIN
    assert speed < row.peak


def test_the_bytes_of_a_model_of_seven_billion():
    """llama.cpp's README of 2023: 13 GB in 16 bits, 3.9 in 4."""
    config = published("llama-7b").config
    assert weight_bytes(config, "F16")[0] == pytest.approx(2 * 6_738_415_616, rel=1e-4)
    assert weight_bytes(config, "Q4_0")[0] == pytest.approx(3.83e9, rel=0.01)
    row = serve(config, TABLE["pixel-6"], "Q4_0", 2048)
    assert row.cache == 2 * 32 * 2048 * 4096 * 2
    assert row.read == weight_bytes(config, "Q4_0")[1] + row.cache
    assert not serve(config, TABLE["pixel-6"], "F16", 1).fits


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_those_of_the_files_that_are_written(bits, tmp_path):
    assert BITS[bits] == BLOCKS[bits].bits
    assert OF_OUTPUT.get(bits) in (None, "Q6_K")
    config = DecoderConfig(vocabulary=257, context=64, width=256, depth=1, heads=4, hidden=512)
    out = export_gguf(tmp_path / "a.gguf", config, dict(config.build().initialise(0).named_parameters()),
                      None, kind=bits)  # fmt: skip
    assert out.bytes == pytest.approx(weight_bytes(config, bits)[0], rel=0.02)


def test_every_device_has_its_source():
    for name, device in TABLE.items():
        assert device.source and device.kind in CLASSES and name not in DEVICES
        assert 1e9 < device.bandwidth < 1e12 and 2e9 < device.memory < 2e11


def test_the_command(tmp_path):
    said = command("plan", "--serve", "llama-7b", "--device", "pixel-6", "--json")
    rows = {(row["bits"], row["context"]): row for row in said.json["rows"]}
    assert not rows["F16", 2048]["fits"] and rows["Q4_0", 256]["fits"]
    assert "does not fit" in said.out or said.json["device"]["source"]
    save_config(tmp_path, DecoderConfig(vocabulary=257, width=64, depth=2, heads=2, context=128))
    said = command("plan", "--serve", tmp_path, "--device", "PI-4", "--context", "64")
    assert said.code == 0 and "Raspberry Pi 4" in said.out and "LPDDR4-3200" in said.out
    assert "not by memory" in said.out
    said = command("plan", "--device", "list")
    assert said.code == 0 and all(name in said.out for name in ("pixel-5", "RTX4090", "this"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--serve", "llama-7b", "--device", "pixel-66"), "did you mean 'pixel-6'"),
        (("--serve", "llama-8b", "--device", "pixel-6"), "unknown architecture llama-8b"),
        (("--serve", "llama-7b", "--device", "pi-5", "--hours", "3"), "--hours is not of --serve"),
        (("--serve", "llama-7b", "--device", "pi-5", "--devices", "3"), "leave --devices out"),
        (("--serve", "llama-7b", "--device", "pi-5", "--context", "0"), "use at least 1"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, part):
    refused(command("plan", *words), part, code=2)

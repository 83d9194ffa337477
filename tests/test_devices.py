"""Devices: published numbers, unknown ones in words, and this machine without torch."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from maquette.base import machine, probes
from maquette.base.errors import WrongUse
from maquette.base.files import home, read_json, write_json
from maquette.scaling.devices import DEVICES, device, from_machine, here
from maquette.scaling.roofline import step_time
from maquette.scaling.training_step import Layout, TrainingStep

WANTED = """V100 A100-40 A100 H100 H200 B200 L4 L40S A10G T4 RTX3090 RTX4090 RTX5090 MI250X MI300X
TPUv3 TPUv4 TPUv5e TPUv5p""".split()


def some_rates() -> probes.Rates:
    curve = tuple(zip((64.0, 256.0, 768.0), (1e11, 2e11, 2e11), strict=True))
    heads = {16: ((64.0, 1e11), (256.0, 2e11), (1024.0, 3e11))}
    heads[64] = (*heads[16], (2048.0, 4e11))
    both = {"fp32": 1e10, "bf16": 5e9}
    return probes.Rates(
        products={"fp32": curve, "bf16": curve},
        stream=tuple((float(size), 8e10 / (1 + i)) for i, size in enumerate(probes.STREAM)),
        arithmetic=both,
        exponential=both,
        rows=3e9,
        cast=8e9,
        attention=dict.fromkeys(probes.PRECISIONS, heads),
        update=5e10,
        operation=2e-6,
    )


def test_every_device_has_numbers_units_and_sources():
    assert set(WANTED) <= set(DEVICES)
    for one in DEVICES.values():
        bf16 = one.peak("bf16")
        assert bf16 is None or 5e13 < bf16 < 5e15, one.name
        assert one.bandwidth is None or 1e11 < one.bandwidth < 1e13
        assert 1e10 < one.memory < 5e11
        for name in ("flops", "bandwidth", "memory", "link", "network"):
            assert one.sources[name]
        assert one.link is None or one.link < one.bandwidth
        assert one.network is None or one.network <= one.link


def test_published_numbers():
    assert device("h100").peak("bf16") == 989e12
    # What these cards report, 79.6, 140.4 and 22.5 GiB, less what the driver keeps.
    assert device("H100").memory == pytest.approx(81_559 * 2**20, rel=0.03)
    assert device("H200").memory == pytest.approx(143_771 * 2**20, rel=0.03)
    assert device("L4").memory == pytest.approx(23_034 * 2**20, rel=0.03)
    assert "GiB" in device("A100").sources["memory"]
    assert device("TPUv4").memory == 32e9
    assert device("L4").per_node == 8
    assert device("L4").sources["per_node"].startswith("assumed")
    assert device("A100-40").bandwidth == 1555e9
    assert device("A100").peak("fp32") == 156e12  # tf32, which is what runs
    assert device("V100").peak("fp32") == 15.7e12
    assert device("TPUv4").flops["fp32"] is None


def test_an_unknown_device_is_refused_and_an_unknown_number_said():
    with pytest.raises(WrongUse, match="unknown device H1000: did you mean 'H100'"):
        device("H1000")
    from maquette.models.config import DecoderConfig

    told = step_time(TrainingStep(DecoderConfig(), 1, 256, "fp32", Layout()), device("TPUv4"))
    assert told.seconds is None
    assert told.utilisation is None
    assert told.unknown == ["compute"]
    assert "unknown" in told.why["compute"]
    two = Layout(replicate=2)
    told = step_time(TrainingStep(DecoderConfig(), 1, 256, "bf16", two), from_machine(made()))
    assert told.seconds is None
    assert told.unknown == ["gradients"]


def made() -> machine.Machine:
    return machine.Machine("cpu", "made up", 2, 2, 2**34, "0", 1e11, 2e11, 3e10, some_rates())


def gpu() -> machine.Machine:
    return machine.Machine(
        "cuda", "made up", 2, 2, 2**41, "0", 4e14, 7e14, 3e12, some_rates(), 80 * 2**30
    )


def test_a_gpus_memory_is_its_own():
    assert from_machine(gpu()).memory == 80 * 2**30
    assert from_machine(gpu()).kind == "cuda"
    assert from_machine(made()).memory == 2**34
    assert from_machine(replace(gpu(), device_memory=None)).memory is None


def test_rates_survive_json_and_damage_means_measuring_again():
    rates = some_rates()
    plain = json.loads(json.dumps(rates.plain()))
    assert probes.rates_from(plain) == rates
    for name in plain:
        assert probes.rates_from({k: v for k, v in plain.items() if k != name}) is None
    assert probes.rates_from(None) is None
    assert probes.rates_from(plain | {"stream": []}) is None
    assert probes.rates_from(plain | {"stream": plain["stream"][:-1]}) is None
    for name in ("products", "attention"):  # of a version that measured fewer points
        older = json.loads(json.dumps(plain))
        curves = older[name]["bf16"]
        shorter = curves if name == "products" else curves["64"]
        shorter.pop()
        assert probes.rates_from(older) is None
    assert probes.better(rates, None) == rates == probes.better(rates, rates)


def test_curves_are_read_between_and_beyond_their_points():
    curve = ((10.0, 1.0), (1000.0, 4.0))
    assert probes.at(curve, 1) == 1
    assert probes.at(curve, 100) == pytest.approx(2)
    assert probes.at(curve, 10**6) == 4


def entry(**changes) -> dict:
    from importlib.metadata import version

    known = {
        "device": "cpu",
        "processor": machine.processor(),
        "cores": machine.cores(),
        "threads": 1,
        "memory": machine.memory(),
        "torch": version("torch"),
        "fp32_flops": 1e11,
        "bf16_flops": 2e11,
        "bandwidth": 3e10,
        "rates": some_rates().plain(),
        "when": time.time(),
    }
    return known | changes


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path))
    return home()


def test_what_was_measured_is_read_without_torch(own_home):
    assert machine.kept() is None
    assert here() is None
    write_json(own_home / "machine.json", {"a": entry(), "b": entry(bf16_flops=9e11, when=0.0)})
    assert machine.kept().bf16_flops == 2e11  # the other is old
    assert here().rates == some_rates()
    assert here().link is None
    words = (
        "import sys; from maquette.scaling.layouts import choose\n"
        "from maquette.scaling.devices import here\n"
        "assert here().peak('fp32') == 1e11\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", words], check=True)


@pytest.mark.parametrize(
    "content",
    [
        {"cores": 2, "fp32_flops": 1e11},  # before identities
        {"x": {"fp32_flops": 1e11, "bf16_flops": 2e11, "bandwidth": 3e10, "when": 9e12}},
        {"x": entry(processor="another")},
        {"x": entry(torch="1.0")},
        {"x": entry(when=time.time() - 2 * machine.KEPT_SECONDS)},
        {"x": entry(rates=None)},
        {"x": entry(bandwidth=None)},
        {"x": {k: v for k, v in entry().items() if k != "threads"}},
        {"x": entry(device="cuda", processor="GPU")},  # before its memory was kept beside it
        [entry()],
        "nothing",
    ],
)
def test_measurements_of_others_and_of_old_versions_are_left_alone(own_home, content):
    write_json(own_home / "machine.json", content)
    assert machine.kept() is None


def test_a_gpu_is_read_before_the_processor(own_home):
    old = entry(
        device="cuda", processor="GPU", device_memory=2**36, bf16_flops=6e14, when=time.time() - 90
    )
    new = old | {"bf16_flops": 7e14, "when": time.time() - 60}
    write_json(own_home / "machine.json", {"new": new, "old": old, "processor": entry()})
    assert machine.kept().device == "cuda"
    assert machine.kept().bf16_flops == 7e14
    assert here().memory == 2**36


def test_a_file_that_holds_something_else_is_measured_over(own_home, monkeypatch):
    monkeypatch.setattr(probes, "probe", lambda device: some_rates())
    monkeypatch.setattr(machine, "product_speed", lambda dtype, device: 1e11)
    monkeypatch.setattr(machine, "read_speed", lambda device: 1e10)
    write_json(own_home / "machine.json", ["nothing"])
    machine.measure.cache_clear()
    found = machine.measure("cpu")
    machine.measure.cache_clear()
    assert found.device_memory is None
    assert machine.kept() == found


def test_measuring_a_gpu_keeps_its_memory(own_home, monkeypatch):
    import torch

    monkeypatch.setattr(probes, "probe", lambda device: some_rates())
    monkeypatch.setattr(machine, "product_speed", lambda dtype, device: 1e11)
    monkeypatch.setattr(machine, "read_speed", lambda device: 1e10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    card = SimpleNamespace(total_memory=2**36)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    machine.measure.cache_clear()
    found = machine.measure("cuda")
    machine.measure.cache_clear()
    assert found.device_memory == 2**36
    assert machine.kept() == found


def test_measuring_keeps_what_the_planner_reads(own_home, monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", 0.001)
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.001)
    old = {"cores": 2, "fp32_flops": 1e11}
    write_json(own_home / "machine.json", old)
    machine.measure.cache_clear()
    found = machine.measure("cpu")
    machine.measure.cache_clear()
    assert machine.measure("cpu") == found  # kept, not measured again
    assert machine.kept() == found
    assert read_json(own_home / "machine.json").items() >= old.items()
    assert found.rates.operation < 1e-3
    machine.measure.cache_clear()

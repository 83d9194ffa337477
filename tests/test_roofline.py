"""Time: operations as torch counts them, bubbles and messages by their formulas, published runs."""

import re
from dataclasses import replace

import pytest
import torch
from test_devices import gpu, made
from torch.utils.flop_counter import FlopCounterMode

from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role
from maquette.scaling.devices import device, from_machine
from maquette.scaling.roofline import LINKS, step_time
from maquette.scaling.training_step import Layout, TrainingStep

ONE = Layout()
GPT3 = families.gpt3(vocabulary=50304, context=2048, width=12288, depth=96, heads=96)


@pytest.mark.parametrize(
    "config",
    [
        families.gpt2(vocabulary=5000, context=256, width=128, depth=3, heads=4),
        families.palm(vocabulary=1000, context=256, width=128, depth=2, heads=2),
        families.llama(vocabulary=3000, context=256, width=192, depth=2, heads=6, kv_heads=2),
    ],
)
def test_operations_agree_with_torchs_counter(config):
    with torch.device("meta"):
        model = config.build()
    tokens = torch.zeros(2, 256, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    told = step_time(TrainingStep(config, 2, 256, "bf16", Layout(micro_batches=3)), device("A100"))
    assert told.flops == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_parts_sum_up_and_each_has_its_reason(precision, compiled):
    config = DecoderConfig(width=128, heads=2)
    here = from_machine(made())
    told = step_time(
        TrainingStep(config, 8, 128, precision, Layout(micro_batches=2), compiled=compiled), here
    )
    assert told.seconds == pytest.approx(sum(told.parts.values()))
    assert told.parts.keys() <= told.why.keys()
    assert all(value >= 0 for value in told.parts.values())
    assert told.utilisation == pytest.approx(told.flops / told.seconds / here.peak(precision))
    assert not told.unknown


def test_long_contexts_take_what_was_measured_at_long_contexts():
    """Fused attention skips what is masked: a token of 4,096 is not sixteen times one of 256."""
    config = DecoderConfig(width=256, heads=4, context=4096)
    here = from_machine(made())

    def attention(time):
        return step_time(TrainingStep(config, 4096 // time, time, "bf16", ONE), here).parts[
            "attention"
        ]

    (short,) = {speed for size, speed in made().rates.attention["bf16"][64] if size == 256}
    (long,) = {speed for size, speed in made().rates.attention["bf16"][64] if size == 2048}
    assert attention(4096) / attention(256) == pytest.approx(16 * short / long)
    assert attention(2048) / attention(256) == pytest.approx(8 * short / long)


def test_wide_products_take_what_long_ones_were_measured_to():
    """And not the peak, which some units reach on short products alone."""
    config = DecoderConfig(width=1536, heads=24)
    rates = replace(
        made().rates,
        products=dict.fromkeys(("fp32", "bf16"), ((64, 1e11), (256, 2e11), (768, 3e11))),
    )
    for peak in (3e11, 9e11):
        here = from_machine(replace(made(), bf16_flops=peak, rates=rates))
        told = step_time(TrainingStep(config, 4, 256, "bf16", ONE), here)
        hidden = config.parameters_by_role()[Role.HIDDEN]
        assert told.parts["products"] == pytest.approx(6 * 1024 * hidden / 3e11)


def test_more_work_takes_longer():
    config = DecoderConfig(width=256)
    here = from_machine(made())

    def seconds(micro_batch=4, micro_batches=1, time=128, layout=ONE):
        return step_time(
            TrainingStep(
                config, micro_batch, time, "fp32", replace(layout, micro_batches=micro_batches)
            ),
            here,
        ).seconds

    assert seconds(micro_batch=8) > 1.5 * seconds()
    assert seconds(micro_batches=3) > 2 * seconds()
    again = seconds(layout=Layout(recompute=True))
    assert 1.1 * seconds() < again < 1.4 * seconds()


def test_the_pipelines_bubble():
    """(p - 1) / (m + p - 1) of the whole: Narayanan et al. 2021, as a fraction of the total."""
    told = step_time(
        TrainingStep(GPT3, 1, 2048, "bf16", Layout(pipeline=4, micro_batches=12)), device("A100")
    )
    computed = sum(
        told.parts[name]
        for name in ("products", "loss", "attention", "pointwise", "operations", "optimiser")
    )
    assert told.parts["bubble"] / (computed + told.parts["bubble"]) == pytest.approx(3 / 15)


def test_messages_take_their_bytes_over_the_slowest_link():
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    one = device("A100")

    def message(name, layout, micro_batches=1):
        return step_time(
            TrainingStep(config, 4, 1024, "bf16", replace(layout, micro_batches=micro_batches)), one
        ).parts[name]

    inside = message("gradients", Layout(replicate=8))
    assert inside == pytest.approx(
        2 * 4 * (config.parameters() - config.context * 768) * 7 / 8 / (LINKS * one.link), rel=0.01
    )
    assert message("gradients", Layout(replicate=16)) > 10 * inside  # over the network
    zero3 = message("gradients", Layout(shard=8, zero=3))
    assert zero3 == pytest.approx(1.5 * inside)  # Rajbhandari et al. 2020, section 7
    assert message("gradients", Layout(shard=8, zero=1)) == pytest.approx(inside)
    # Two all-reduces forward, two backward: Shoeybi et al. 2019, section 3.
    sent = 4 * 12 * 2 * (1 / 2) * 4 * 1024 * 768 * 2
    assert message("tensor", Layout(tensor=2)) == pytest.approx(sent / (LINKS * one.link))
    assert message("tensor", Layout(tensor=2), 3) == pytest.approx(3 * sent / (LINKS * one.link))
    parallel = families.gptj(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    told = step_time(TrainingStep(parallel, 4, 1024, "bf16", Layout(tensor=2)), one)
    assert told.parts["tensor"] == pytest.approx(sent / 2 / (LINKS * one.link))


def multiplied(why: str) -> float:
    """What "3 x 4 bytes x 1,000 parameters x (8 - 1) / 8 = ..." multiplies out to."""
    size = 1.0
    for factor in re.split(r" x ", re.sub(r" \((?=[a-z]).*?\)", "", why.partition(" = ")[0])):
        over = re.match(r"\((\d+) - 1\)(?: / (\d+))?", factor)
        if over:
            size *= (int(over[1]) - 1) / int(over[2] or 1)
        else:
            size *= float(factor.split()[0].replace(",", ""))
    return size


@pytest.mark.parametrize(("zero", "times"), [(0, 2), (1, 2), (2, 1 + 4), (3, 3 * 4)])
def test_what_stages_send_over_micro_batches(zero, times):
    """Stage 2 scatters gradients after each micro-batch, stage 3 gathers weights twice besides."""
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    layout = Layout(shard=8, zero=zero) if zero else Layout(replicate=8)
    a100 = device("A100")
    told = step_time(TrainingStep(config, 1, 1024, "bf16", replace(layout, micro_batches=4)), a100)
    local = config.parameters() - config.context * 768
    expected = times * 4 * local * 7 / 8
    assert told.parts["gradients"] * LINKS * a100.link == pytest.approx(expected, rel=0.01)
    assert f"{times} x 4 bytes" in told.why["gradients"]
    assert "(8 - 1) / 8" in told.why["gradients"]
    assert zero < 2 or "each of 4 micro-batches" in told.why["gradients"]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(replicate=4),
        Layout(shard=4, zero=2),
        Layout(shard=4, replicate=2, zero=3),
        Layout(tensor=4, recompute=True),
        Layout(context=4),
        Layout(pipeline=4),
    ],
)
def test_derivations_of_messages_multiply_out(layout):
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    a100 = device("A100")
    told = step_time(TrainingStep(config, 2, 1024, "bf16", replace(layout, micro_batches=3)), a100)
    names = {"gradients", "replicas", "tensor", "context", "pipeline"} & set(told.parts)
    assert names
    for name in names:
        size = told.parts[name] * LINKS * a100.link
        assert multiplied(told.why[name]) == pytest.approx(size, rel=1e-5), told.why[name]


def test_groups_within_a_node_use_its_links():
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)

    def where(layout, name):
        told = step_time(
            TrainingStep(config, 1, 1024, "bf16", replace(layout, micro_batches=4)), device("A100")
        )
        return told.why[name].endswith("within a node")

    assert where(Layout(pipeline=4, tensor=2), "pipeline")
    assert not where(Layout(pipeline=8, tensor=2), "pipeline")
    assert where(Layout(pipeline=2, replicate=8), "pipeline")
    assert not where(Layout(pipeline=2, replicate=8), "gradients")
    assert where(Layout(pipeline=16, replicate=8), "gradients")  # a pipeline over nodes comes last
    assert where(Layout(shard=8, replicate=2, zero=3), "gradients")
    assert not where(Layout(shard=8, replicate=2, zero=3), "replicas")
    assert not where(Layout(tensor=3, replicate=8), "tensor")  # some group of three would straddle
    cards = step_time(TrainingStep(config, 1, 1024, "bf16", Layout(replicate=8)), device("L4"))
    assert cards.why["gradients"].endswith("within a node")


def test_a_measured_gpu_is_no_processor():
    """Its short calls time their start: a step takes its peak and bandwidth, and starts are hidden."""
    config = families.gpt2(vocabulary=50257, context=1024, width=768, depth=12, heads=12)
    card = from_machine(gpu())
    plain = replace(card, rates=None)
    for compiled in (False, True):
        told = step_time(TrainingStep(config, 8, 1024, "bf16", ONE, compiled=compiled), card)
        assert told.parts["operations"] == 0
        assert (
            told.parts
            == step_time(TrainingStep(config, 8, 1024, "bf16", ONE, compiled=compiled), plain).parts
        )
    bare = step_time(TrainingStep(config, 8, 1024, "bf16", ONE), replace(plain, kind="cpu"))
    assert bare.parts["operations"] > 0


@pytest.mark.parametrize(
    ("config", "name", "layout", "micro", "parts", "low", "high"),
    [
        # Narayanan et al. 2021, table 1: GPT-3 on 1,024 A100, 44 % of the peak with recomputation
        # counted, 33 % without it.
        (GPT3, "A100", Layout(replicate=16, tensor=8, pipeline=8, recompute=True), 1, 96, 0.25, 0.5),
        # Touvron et al. 2023, section 2.4: 65B on 2,048 A100 at 380 tokens a second each, 48 %.
        (
            families.llama(vocabulary=32000, context=2048, width=8192, depth=80, heads=64, hidden=22016),
            "A100", Layout(replicate=64, tensor=8, pipeline=4), 1, 32, 0.35, 0.55,
        ),
    ],
)  # fmt: skip
def test_data_sheets_come_near_published_utilisations(
    config, name, layout, micro, parts, low, high
):
    told = step_time(
        TrainingStep(
            config, micro, 2048, "bf16", replace(layout, micro_batches=parts), compiled=True
        ),
        device(name),
    )
    assert low < told.utilisation < high


def test_what_is_not_known_is_not_a_number():
    config = DecoderConfig()
    lacking = replace(device("H100"), bandwidth=None)
    assert step_time(TrainingStep(config, 1, 256, "bf16", ONE), lacking).seconds is None
    across = step_time(TrainingStep(config, 1, 256, "bf16", Layout(replicate=16)), device("MI300X"))
    assert across.unknown == ["gradients"]
    assert "no source gives MI300X's speed between nodes" in across.why["gradients"]

"""Training and sampling speed of picture models: U-Net and DiT beside diffusers' U-Net.

    python benchmarks/images.py                     training: every arm, precision and memory layout
    python benchmarks/images.py sampling RUN        solvers of a trained text run, at equal quality
    python benchmarks/images.py sampling            the same after a few minutes of training

Training. One batch of 64 captioned 32x32 pictures, the same loss (squared error of v), AdamW in its
fused form, the gradient clipped; diffusers' UNet2DConditionModel has the widths that bring it nearest to
our U-Net's number of parameters, and our caption encoder. The arms take turns, so that a machine that
slows down slows all of them. Speed is a fraction of the matrix-product peak measured between the turns,
in the arm's own precision; operations are counted by torch.

Sampling. Each solver with more and more steps, until its pictures are as good as those of 100 steps of
DDIM: the same share, less 3 points, has all attributes right (an oracle reads them) and is drawn as the
world draws (render residual).
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maquette.base.machine import keep_freed_memory, measure, processor, product_speed
from maquette.evaluation.residual import acceptable, fit
from maquette.experiments.bases.text_to_picture import TEXT, WORLD, text_recipe
from maquette.models.base import Loss, PictureBatch
from maquette.models.diffusion.conditioner import Signal
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.model import Diffusion
from maquette.serving.solvers import evaluations
from maquette.systems.diffusion import DIT, Way, all_right, draw
from maquette.training.datasets.pictures import PictureDataset
from maquette.training.optimiser import clip_gradients, make_optimiser
from maquette.training.recipe import Optimiser
from maquette.workshop.oracle import oracle_for
from maquette.workshop.train import train

SETTINGS = Optimiser(learning_rate=1e-4, beta2=0.99, weight_decay=0.01)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = (3, 5, 7, 10, 15, 20, 30, 50)
REFERENCE = Way("ddim", 100, 3.0)
SLACK = 3.0  # points
Step = Callable[[PictureBatch], float]


class Theirs(nn.Module):
    """diffusers' U-Net as the backbone of our loss: it is given the tokens, and its own time embedding."""

    def __init__(
        self, config: DiffusionConfig, widths: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.dtype = dtype
        attends = [r in config.attention_resolutions for r in config.resolutions]
        self.unet = UNet2DConditionModel(
            sample_size=config.image_size, in_channels=3, out_channels=3, layers_per_block=config.depth,
            block_out_channels=widths, norm_num_groups=8, cross_attention_dim=config.text_width,
            attention_head_dim=config.heads,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        )  # fmt: skip
        self.times = torch.zeros(1)

    def forward(self, x: Tensor, vector: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.unet(
                x.float(), 1000 * self.times, encoder_hidden_states=context.float(),
                encoder_attention_mask=mask,
            ).sample  # fmt: skip
        return out.float()


class Beside(Diffusion):
    """Our loss around their backbone."""

    def forward(self, x: Tensor, t: Tensor, signal: Signal) -> Tensor:
        self.backbone.times = t  # type: ignore[assignment]
        return self.backbone(x, signal.vector, signal.tokens, signal.mask)


def nearest_widths(config: DiffusionConfig, parameters: int) -> tuple[int, ...]:
    """The widths of their levels, multiples of 8 in our ratio, that give nearest as many parameters."""

    def count(base: int) -> int:
        with torch.device("meta"):
            model = Theirs(config, tuple(base * m for m in config.multipliers), torch.float32)
        return sum(p.numel() for p in model.unet.parameters())

    base = min((8, 16, 24, 32, 40, 48), key=lambda width: abs(count(width) - parameters))
    return tuple(base * m for m in config.multipliers)


def backbone_size(model: Diffusion) -> int:
    return sum(p.numel() for p in model.backbone.parameters())


def make_step(model: Diffusion, last: bool) -> Step:
    """forward, backward, clip, AdamW, as the trainer takes it."""
    if last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    if isinstance(model, Beside):
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    else:
        optimiser = make_optimiser(model, model.scaling, SETTINGS)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step(batch: PictureBatch) -> float:
        loss: Loss = model.loss(batch)
        (loss.total / loss.count).backward()
        clip_gradients(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.value / loss.count)

    return step


def training(arguments: argparse.Namespace) -> dict[str, object]:
    """Every arm in every precision and layout, in turns."""
    ours = TEXT.build().initialise(0)
    widths = nearest_widths(TEXT, backbone_size(ours)) if arguments.diffusers else ()
    arms: dict[str, Step] = {}
    sizes: dict[str, int] = {}
    precisions: dict[str, str] = {}
    for precision, dtype in DTYPES.items():
        for last in (False, True):
            layout = "channels last" if last else "channels first"
            models: dict[str, Diffusion] = {"U-Net": TEXT.build().initialise(0)}
            if arguments.diffusers:
                theirs = Beside(TEXT)
                theirs.initialise(0)
                theirs.backbone = Theirs(TEXT, widths, dtype)  # type: ignore[assignment]
                models["diffusers' U-Net"] = theirs
            if not last:
                models["DiT"] = DIT.build().initialise(0)
            for kind, model in models.items():
                model.compute = dtype
                name = f"{kind}, {precision}" + ("" if kind == "DiT" else f", {layout}")
                arms[name], sizes[name] = make_step(model, last), backbone_size(model)
                precisions[name] = precision
    if arguments.only:
        arms = {n: a for n, a in arms.items() if any(word in n for word in arguments.only)}
    corpus = text_recipe().data.open_corpus()
    recipe = replace(text_recipe(), batch=arguments.batch)
    stream = PictureDataset(recipe, corpus)
    batch = stream.step(0)[0]
    flops = {}
    for name, step in arms.items():
        with FlopCounterMode(display=False) as counter:
            step(batch)
        flops[name] = counter.get_total_flops() / arguments.batch
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    peaks = {"fp32": 0.0, "bf16": 0.0}
    for turn in range(arguments.rounds):
        for precision, dtype in DTYPES.items():
            peaks[precision] = max(peaks[precision], product_speed(dtype, "cpu"))
        batch = stream.step((1 + turn) * arguments.batch)[0]
        for name, step in arms.items():
            start = time.perf_counter()
            step(batch)
            seconds[name].append(time.perf_counter() - start)
    head = f"{'arm':<40} {'parameters':>10} {'MFLOP':>6} {'pictures/s':>10} {'(best)':>8} {'of its peak':>12}"
    print(
        f"\npeaks in this run: fp32 {peaks['fp32'] / 1e9:.0f}, bf16 {peaks['bf16'] / 1e9:.0f} GFLOP/s"
    )
    print(f"batch {arguments.batch}, {arguments.rounds} turns\n\n{head}\n{'-' * len(head)}")
    table = {}
    for name in arms:
        ordered = sorted(seconds[name])
        middle = ordered[len(ordered) // 2]
        rate, best = arguments.batch / middle, arguments.batch / ordered[0]
        share = flops[name] * rate / peaks[precisions[name]]
        table[name] = {
            "parameters": sizes[name], "flops_per_picture": flops[name], "pictures_per_second": rate,
            "best": best, "fraction_of_peak": share,
        }  # fmt: skip
        print(f"{name:<40} {sizes[name] / 1e6:>8.2f} M {flops[name] / 1e6:>6.0f} {rate:>10.1f} {best:>8.1f} "
              f"{100 * share:>6.1f} % {precisions[name]}")  # fmt: skip
    start = time.perf_counter()
    for i in range(10):
        stream.step((100 + i) * arguments.batch)
    data = (time.perf_counter() - start) / 10
    print(f"\ndrawing pictures and captions: {1e3 * data:.1f} ms a step")
    return {"peaks": peaks, "arms": table, "data_seconds": data}


def sampling(arguments: argparse.Namespace) -> dict[str, object]:
    """Each solver's fewest steps for the quality of many."""
    run = Path(arguments.run) if arguments.run else Path(tempfile.mkdtemp()) / "run"
    if not arguments.run:
        recipe = replace(text_recipe(), steps=arguments.steps)
        print(f"training for {recipe.steps} steps of {recipe.batch} pictures", flush=True)
        train(recipe, run)
    oracle = oracle_for(WORLD)
    least = acceptable(WORLD)

    def quality(way: Way) -> tuple[float, float, float, float]:
        start = time.perf_counter()
        drawn = draw(run, 0, way, arguments.pictures)
        took = (time.perf_counter() - start) / arguments.pictures
        residuals = fit(drawn.pictures, drawn.labels, WORLD).psnr
        right = all_right(oracle, [drawn])
        good = 100 * float((right & (residuals >= least)).mean())
        return good, 100 * float(right.mean()), float(np.mean(residuals)), 1e3 * took

    wanted = quality(REFERENCE)
    head = f"{'solver':<8} {'steps':>5} {'evaluations':>11} {'ms a picture':>12}"
    head += f" {'good':>7} {'right':>7} {'dB':>6}"
    print(f"\nguidance {REFERENCE.guidance:g}: an evaluation is of two predictions\n")
    print(f"{head}\n{'-' * len(head)}")
    table = []

    def show(way: Way, found: tuple[float, float, float, float], equal: bool) -> None:
        good, right, residual, took = found
        asked = evaluations(way.solver, way.steps)
        print(f"{way.solver:<8} {way.steps:>5} {asked:>11} {took:>12.1f} {good:>6.1f}% {right:>6.1f}% "
              f"{residual:>6.2f} {'equal' if equal else ''}", flush=True)  # fmt: skip
        table.append(
            {"solver": way.solver, "steps": way.steps, "evaluations": asked, "milliseconds": took,
             "good": good, "right": right, "residual": residual, "equal": equal}
        )  # fmt: skip

    show(REFERENCE, wanted, True)
    for solver, steps in itertools.product(("ddpm", "ddim", "dpm2m", "heun"), STEPS):
        if any(row["solver"] == solver and row["equal"] for row in table[1:]):
            continue
        way = replace(REFERENCE, solver=solver, steps=steps)
        found = quality(way)
        show(way, found, found[0] >= wanted[0] - SLACK)
    return {"pictures": arguments.pictures, "least_residual": least, "ways": table}


def main() -> None:
    """One of the two, and its numbers as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("training", "sampling"), default="training")
    parser.add_argument("run", nargs="?", help="sampling: a text-to-picture run")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each arm (default: 5)")
    parser.add_argument("--only", nargs="+", help="arms whose name holds one of these")
    parser.add_argument("--no-diffusers", dest="diffusers", action="store_false")
    parser.add_argument(
        "--pictures", type=int, default=300, help="sampling: of each way (default: 300)"
    )
    parser.add_argument(
        "--steps", type=int, default=600, help="sampling: of training (default: 600)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    arguments = parser.parse_args()
    keep_freed_memory()
    print(f"{processor()}, {measure().threads} threads, torch {torch.__version__}")
    found = (training if arguments.what == "training" else sampling)(arguments)
    text = json.dumps(found)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

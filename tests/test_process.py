"""The diffusion process: every prediction stands for the same picture; times, errors, guidance."""

import pytest
import torch
from torch.testing import assert_close

from maquette.models.diffusion.process import Process, guided
from maquette.nn.noise_schedule import NoiseSchedule

KINDS = ("cosine", "linear", "flow")
PREDICTIONS = [(k, p) for k in KINDS for p in ("v", "noise", "picture") if (k, p) != ("flow", "v")]
PREDICTIONS.append(("flow", "velocity"))


@pytest.mark.parametrize(("kind", "prediction"), PREDICTIONS)
def test_the_exact_prediction_gives_back_picture_and_noise(kind, prediction):
    process = Process(NoiseSchedule(kind), prediction)
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 7, 3, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)  # a time for each picture
    x = process.schedule.mix(x0, noise, t)
    output = process.target(x0, noise, t)
    denoised = process.denoised(x, t, output)
    assert_close(denoised, x0)
    assert_close(process.schedule.noise_of(x, t, denoised), noise)
    for i in range(7):  # one time for all is the same
        assert_close(process.denoised(x[i], t[i], output[i]), x0[i])


def test_a_velocity_is_the_schedules_derivative():
    process = Process(NoiseSchedule("flow"), "velocity")
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64)
    mix = process.schedule.mix
    slope = (mix(x0, noise, t + 1e-6) - mix(x0, noise, t - 1e-6)) / 2e-6
    assert_close(slope, process.target(x0, noise, t), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "prediction"), PREDICTIONS)
@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_training_examples_are_the_data_with_noise_at_times_spread_over_the_batch(
    kind, prediction, shape
):
    """A target that is met stands for the data, pictures or embeddings."""
    process, x0 = Process(NoiseSchedule(kind), prediction), torch.rand(8, *shape)
    torch.manual_seed(0)
    x, t, target = process.noised(x0)
    assert torch.equal((t * 8).floor(), torch.arange(8.0))
    late = t < 0.9  # a prediction of the noise says little of the picture in pure noise
    assert_close(process.denoised(x, t, target)[late], x0[late], atol=1e-4, rtol=1e-3)
    assert not torch.equal(process.noised(x0)[1], t)


def test_errors_are_of_each_row():
    process = Process(NoiseSchedule(), "v")
    target = torch.zeros(3, 2, 2)
    output = torch.tensor([0.0, 1.0, 3.0])[:, None, None].expand(3, 2, 2)
    assert process.error(output, target).tolist() == [0.0, 1.0, 9.0]


def test_guidance_is_a_line_from_the_unconditional():
    given, none = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 5.0])
    assert guided(given, 1.0) is given
    both = torch.cat([given, none])
    assert guided(both, 0.0).tolist() == none.tolist()
    assert guided(both, 3.0).tolist() == [4.0, -1.0]

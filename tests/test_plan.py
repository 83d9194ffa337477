"""Plans and laws against published numbers; the fit against planted ones."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import command, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import maquette
from maquette.base.errors import WrongUse
from maquette.base.files import write_json
from maquette.corpus.text.named import open_corpus
from maquette.scaling import frontier
from maquette.scaling.budget import Budget
from maquette.scaling.budget_split import Text
from maquette.scaling.devices import device
from maquette.scaling.extrapolate import Rung, analyse
from maquette.scaling.fit import fit_surface
from maquette.scaling.laws import LAWS, Law, law
from maquette.scaling.model_shapes import nearest_shape
from maquette.scaling.plan import make_plan
from maquette.scaling.user_law import LADDER, keep
from maquette.training.recipe import load_plan, load_recipe

CHINCHILLA = 5.88e23  # the compute of Chinchilla 70B and Gopher 280B


def test_the_published_laws_give_their_published_answers():
    """Besiroglu et al. 2024: the refit agrees with 20 tokens a parameter, the printed law does not."""
    n, d = law("besiroglu").best(CHINCHILLA)
    assert n == pytest.approx(74e9, rel=0.03)
    assert d / n == pytest.approx(18, rel=0.05)
    n, d = law("hoffmann").best(CHINCHILLA)
    assert n == pytest.approx(32.5e9, rel=0.03)
    assert d / n == pytest.approx(93, rel=0.05)
    n, d = law("hoffmann-unrounded").best(CHINCHILLA)
    assert n == pytest.approx(40.7e9, rel=0.03)


def test_a_plan_from_the_command_line():
    said = command("plan", "--flops", "5.88e23", "--json")
    assert said.code == 0, said.err
    plan = said.json
    assert plan["parameters"] == pytest.approx(74e9, rel=0.05)
    assert plan["law"]["E"] == 1.8172
    assert {"parameters", "tokens", "loss_predicted", "law"} <= plan.keys()
    assert all(reason for reason in plan["why"].values())
    assert not plan["warnings"]
    python = maquette.plan(flops=5.88e23)
    assert (python.parameters, python.tokens) == (plan["parameters"], plan["tokens"])


def test_time_on_devices_is_a_budget():
    words = ("plan", "--device", "h100", "--devices", "8", "--hours", "24", "--json")
    plan = command(*words, "--utilisation", "0.4").json
    assert plan["flops"] == pytest.approx(8 * 989e12 * 24 * 3600 * 0.4)
    plan = command(*words).json
    # The budget is counted with what the layout reaches, so the two agree.
    assert plan["flops"] == pytest.approx(8 * 989e12 * 24 * 3600 * plan["utilisation"], rel=0.01)
    assert plan["seconds"] == pytest.approx(24 * 3600, rel=0.02)
    assert plan["memory"] < 80 * 2**30
    here = command("plan", "--minutes", "2", "--json").json
    assert here["seconds"] == pytest.approx(120, rel=0.02)
    assert here["warnings"]  # far below what the law was fitted on


def test_a_plan_needs_neither_torch_nor_a_second():
    """What `maquette plan --device ...` imports; its time is not asserted."""
    code = (
        "import sys; from maquette.cli.main import main; "
        "codes = main(['plan', '--device', 'H100', '--devices', '8', '--hours', '24']), "
        "main(['plan', 'gpt3-175b', '--device', 'A100', '--devices', '1024']); "
        "assert codes == (0, 0), codes; "
        "heavy = {'torch', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters") > 1


def test_a_planned_recipe_keeps_its_forecast(tmp_path):
    out = tmp_path / "planned.yaml"
    said = command("plan", "--minutes", "3", "--corpus", "tiny", "--out", out, "--json")
    assert said.code == 0, said.err
    assert load_recipe(out).model.parameters() == said.json["parameters"]
    assert load_plan(out)["loss_predicted"] == pytest.approx(said.json["loss_predicted"])


def test_more_tokens_to_serve_make_a_smaller_model():
    plain = maquette.plan(flops=1e21)
    served = maquette.plan(flops=1e21, inference_tokens=1e12)
    assert served.parameters < 0.8 * plain.parameters
    assert served.flops == plain.flops  # the training budget is what was given
    assert served.tokens > plain.tokens
    assert served.loss_predicted > plain.loss_predicted


def test_other_sizes_lose_and_error_bars_widen_with_the_distance():
    plan = maquette.plan(flops=1e22)
    assert all(one.loss > plan.loss_predicted for one in plan.beside)
    assert all(one.share < 1 for one in plan.beside)
    low, high = plan.loss_interval
    assert low < plan.loss_predicted < high


OWN = Law("own", "a fit of one's own", 1.7, 300.0, 900.0, 0.33, 0.31, smallest=1e5, scatter=0.01,
          errors={"a": 0.01}, pivot=(1e18, 0.004))  # fmt: skip
"""surer of its best size than shapes are near each other"""


@settings(max_examples=60, deadline=None)
@given(
    log_flops=st.floats(15, 25),
    name=st.sampled_from([*LAWS, "own"]),
    where=st.sampled_from([None, ("A100", 1), ("H100", 8), ("T4", 4)]),
    vocabulary=st.sampled_from([None, 257, 4096, 50257, 256_000]),
    context=st.sampled_from([None, 128, 2048, 16_384]),
    tokens=st.sampled_from([None, 10**7, 10**10, 10**13]),
)
def test_the_point_lies_in_its_own_interval(log_flops, name, where, vocabulary, context, tokens):
    """Of parameters, of tokens and of the loss; and the operations are those of the budget."""
    chosen = OWN if name == "own" else law(name)
    text = None if tokens is None else Text("mine", tokens, vocabulary or 4096, 4.0)
    kind, count = where or (None, 1)
    budget = Budget(flops=10**log_flops, device=kind and device(kind), devices=count)
    try:
        plan = make_plan(budget, chosen, text=text, vocabulary=vocabulary, context=context)
    except WrongUse:
        return  # too few operations for ten steps, or more than shapes reach
    for point, ends in (
        (plan.parameters, plan.parameters_interval),
        (plan.tokens, plan.tokens_interval),
        (plan.loss_predicted, plan.loss_interval),
    ):
        if ends is not None:
            assert ends[0] <= point <= ends[1]
    assert (plan.parameters_interval is None) == (plan.tokens_interval is None)
    one, step = plan.model.flops_per_token(plan.recipe.data.sequence), plan.batch_tokens
    assert abs(plan.tokens - plan.flops / one) <= step
    if plan.tokens_interval is not None:  # the ends are of the same budget, too
        low, high = plan.parameters_interval
        for size, held in ((low, plan.tokens_interval[1]), (high, plan.tokens_interval[0])):
            assert size * held == pytest.approx(plan.parameters * plan.tokens)


def test_a_plan_says_its_intervals():
    said = command("plan", "--flops", "1e18", "--device", "A100", "--json")
    plan = said.json
    for name in ("parameters", "tokens"):
        low, high = plan[f"{name}_interval"]
        assert low < plan[name] < high
        line = next(text for text in said.err.splitlines() if text.split()[:1] == [name])
        point, ends = line.split(" (")[:2]
        low, high = (amount(part) for part in ends.partition(")")[0].split(" to "))
        assert low <= amount(point.removeprefix(f"  {name}")) <= high


def amount(text: str) -> float:
    number, _, letter = text.strip().partition(" ")
    return float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[letter]


def test_a_size_that_no_shape_reaches_has_no_interval():
    """The smallest shape is far above the best size of a tiny budget: nothing is said of that."""
    plan = make_plan(Budget(flops=1e13), law("besiroglu"), vocabulary=50257, context=64)
    assert plan.parameters_interval is None


def test_a_small_corpus_is_repeated_and_said_so():
    text = Text("mine", 10**9, 32768, 4.0)
    plan = make_plan(Budget(flops=1e21), law("besiroglu"), text=text)
    plenty = make_plan(Budget(flops=1e21), law("besiroglu"), text=replace(text, tokens=10**12))
    assert plan.epochs > 4
    assert plan.loss_predicted > plenty.loss_predicted
    assert any("more text would help" in warning for warning in plan.warnings)
    assert not plenty.warnings


def test_the_money_is_the_hours_times_the_price():
    plan = maquette.plan(device="A100", devices=4, hours=10, price=2.0)
    assert plan.cost == pytest.approx(80, rel=0.02)


def test_what_does_not_fit_is_said():
    said = command("plan", "gpt3-175b", "--device", "T4", "--devices", "4", "--json")
    assert said.code == 0, said.err
    assert not said.json["fits"]
    assert any("does not fit" in warning for warning in said.json["warnings"])
    assert said.json["parameters"] == 174_604_259_328


def test_a_planned_model_has_the_planned_size():
    config = nearest_shape(5e6, vocabulary=1000, context=64)
    model = config.build()
    assert config.parameters() == sum(p.numel() for p in model.parameters())
    assert 0.5 < config.parameters() / 5e6 < 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flops", "1e20", "--hours", "1"], "give one budget"),
        (["tiny", "--flops", "1e20"], "--flops is for a budget"),
        (["gpt3-175c"], "unknown recipe gpt3-175c: did you mean 'gpt3-175b'?"),
        (["--drop", "3"], "--drop belongs to --from"),
        (["--from", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--flops", "1e20", "--device", "A100", "--devices", "0"], "devices is 0"),
        (["--flops", "1e20", "--devices", "8"], "--devices belongs to --device D"),
        (["--flops", "1e20", "--price", "2"], "--price belongs to --device D"),
        (["--flops", "1e20", "--picture", "a.svg"], "--picture writes a PNG"),
        (["--flops", "1e5"], "give 9.3e+09 or more"),
        (["--flops", "1e32"], "give a smaller budget"),
        (["tiny", "--price", "nan"], "price is nan: use a positive number"),
        (["--flops", "1e20", "--inference-tokens", "1e9", "--law", "kaplan"], "kaplan is none"),
        (["--flops", "-1"], "flops is -1: use a positive number"),
        (["--device", "H100X", "--hours", "1"], "unknown device H100X: did you mean 'H100'?"),
        (["--flops", "1e20", "--law", "besirogly"], "did you mean 'besiroglu'?"),
        (["--hours", "1", "--minutes", "1"], "give --hours or --minutes, not both"),
        (["--flops", "lots"], "invalid float value: 'lots'"),
        (["--hours", "1", "--utilisation", "3"], "utilisation is 3.0"),
    ],
)
def test_budgets_that_are_none_are_refused(words, message):
    refused(command("plan", *words), message, code=2)


def planted(noise: float) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(0)
    n, d = 10 ** draw.uniform(7, 10, 200), 10 ** draw.uniform(9, 11.5, 200)
    loss = 1.8 + 480 / n**0.35 + 2085 / d**0.37
    return n, d, loss * np.exp(noise * draw.normal(size=200))


def test_the_fit_recovers_a_planted_surface():
    fit = fit_surface(*planted(0.0), source="planted")
    for name, value in {"E": 1.8, "A": 480, "B": 2085, "alpha": 0.35, "beta": 0.37}.items():
        assert getattr(fit.law, name) == pytest.approx(value, rel=1e-3), name
    assert fit.error < 1e-5
    noisy = fit_surface(*planted(0.005), source="planted")
    assert noisy.law.alpha == pytest.approx(0.35, abs=0.02)
    assert noisy.law.beta == pytest.approx(0.37, abs=0.02)
    assert noisy.error == pytest.approx(0.005, rel=0.2)
    assert min(noisy.law.E, noisy.law.A, noisy.law.B) >= 0


def test_five_points_fix_nothing():
    n, d, loss = planted(0.0)
    with pytest.raises(ValueError, match="give six or more"):
        fit_surface(n[:5], d[:5], loss[:5], source="few")


def test_the_forecast_passes_through_the_ladder():
    errors = []
    for run in frontier.ladder():
        forecast = frontier.forecast(int(run["parameters"]), int(run["tokens"]))
        assert forecast.inside
        errors.append(abs(forecast.bits_per_byte / run["bits_per_byte"] - 1))
    assert max(errors) < 3 * frontier.surface().error + 1e-9
    easy, hard = (frontier.forecast(10**6, 10**6, hardness) for hardness in (1.0, 1.1))
    assert hard.bits_per_byte == pytest.approx(1.1 * easy.bits_per_byte)
    far = frontier.forecast(10**9, 10**10)
    assert not far.inside


def test_more_time_never_buys_a_smaller_best_model():
    table = {w: (w * 10_000, w * 60_000.0) for w in frontier.RUNGS}
    widths = [frontier.best_rung(4e11, seconds, table) for seconds in (10, 100, 1000, 10_000)]
    assert widths == sorted(widths)


def planted_ladder(folder):
    """A ladder whose frontier is 20 C^-0.1 with the best size 0.03 C^0.5, in a file as trained."""
    points = []
    for flops in 2e10 * 2.0 ** np.arange(6):
        best = 0.03 * flops**0.5
        for factor in (0.35, 0.6, 1.0, 1.7, 3.0):
            n = round(best * factor)
            loss = 20 * flops**-0.1 * (1 + 0.05 * np.log(n / best) ** 2)
            points.append(Rung(flops, n, round(flops / 6 / n), float(loss)))
    content = {"ladder": analyse(points).to_dict(), "corpus": "planted"}
    write_json(folder / LADDER, content)
    return folder


def test_a_plan_counts_with_a_ladder_of_ones_own(tmp_path):
    folder = planted_ladder(tmp_path / "ladder")
    said = command("plan", "--flops", "5e12", "--law", folder, "--vocabulary", "257", "--json")
    assert said.code == 0, said.err
    plan = said.json
    assert plan["law"]["name"] == "ladder"
    assert plan["law"]["a"] == pytest.approx(0.5, abs=0.01)
    low, high = plan["loss_interval"]
    assert low <= plan["loss_predicted"] <= high
    frontier = 20 * 5e12**-0.1
    assert frontier * 0.98 < plan["loss_predicted"] < frontier * 1.6  # shapes begin at width 64
    far = command("plan", "--flops", "1e16", "--law", folder, "--json").json
    assert far["loss_interval"] is None
    assert any("that far it says nothing" in warning for warning in far["warnings"])


def test_a_corpus_is_planned_with_its_own_ladder(tmp_path, monkeypatch):
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path / "home"))  # no other test plans with it
    folder = planted_ladder(tmp_path / "ladder")
    corpus = open_corpus("tiny")
    keep(folder, corpus.hash)
    said = command("plan", "--flops", "5e11", "--corpus", "tiny", "--json")
    assert said.code == 0, said.err
    assert said.json["law"]["name"] == "ladder"
    named = ("plan", "--flops", "5e11", "--corpus", "tiny", "--law", "besiroglu", "--json")
    assert command(*named).json["law"]["name"] == "besiroglu"


def test_what_is_no_ladder_is_one_line(tmp_path):
    (tmp_path / LADDER).write_text('{"ladder": {}}', encoding="utf-8")
    refused(command("plan", "--flops", "1e12", "--law", tmp_path), "is no ladder", code=1)
    refused(command("plan", "--flops", "1e12", "--law", tmp_path / LADDER), "is no ladder", code=1)


@pytest.mark.parametrize("words", [["--minutes", "nan"], ["--hours", "-1"], ["--hours", "inf"]])
def test_time_that_is_none_is_refused(words):
    refused(command("plan", "--device", "H100", *words), "use a positive number", code=2)


def test_given_utilisation_is_what_time_and_money_count_with():
    plan = maquette.plan(device="H100", devices=8, hours=24, utilisation=0.2, price=2.5)
    assert plan.seconds == pytest.approx(24 * 3600, rel=0.01)
    assert plan.cost == pytest.approx(8 * 24 * 2.5, rel=0.01)
    assert plan.utilisation == 0.2


def test_json_holds_no_infinity(tmp_path):
    (tmp_path / "runs.csv").write_text(
        "parameters,tokens,loss\n"
        + "\n".join(f"{n},{20 * n},{2 + 100 / n**0.3}" for n in (1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7)),
        encoding="utf-8",
    )
    said = command("plan", "--from", tmp_path / "runs.csv", "--json")
    assert said.code in (0, 1)
    assert "NaN" not in said.out
    assert "Infinity" not in said.out

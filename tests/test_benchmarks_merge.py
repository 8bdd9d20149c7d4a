"""The instruments of the merge benchmarks: models made from noise, a stopwatch, and comparisons that can fail."""

import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.merge import METHODS, MORE_METHODS, read_recipe
from benchmarks.merge_compare import Gap, Kept, compare, look_at_drops, steps_of
from benchmarks.merge_measure import Limit, Spent, anonymous_kb, measure_limit, run_merge
from benchmarks.merge_models import EXPERTS, MARKER, NANO, SHAPES, entries_of, make, to_bfloat16, to_float32
from benchmarks.merge_search import RANGES, draw
from benchmarks.merge_tables import MERGEKIT, STREAM, Measured, limit_table, memory_lines
from medsmith.records import read_json
from merge_recipes.recipe import load_recipe
from merge_recipes.weights import INDEX, Entry, Weights, create

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make("tiny", tmp_path_factory.mktemp("models"))


def write_model(folder: Path, values: Any) -> Path:
    """A model of one tensor."""
    folder.mkdir()
    bits = to_bfloat16(np.array(values, np.float32))
    with create(folder, [Entry("w", "BF16", (len(bits),))]) as views:
        views["w"][:] = bits
    return folder


def one_expert(method: str, **numbers: float) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "expert", "parameters": {"weight": 1.0, **numbers}}],
    }


def test_rounding_to_bfloat16_is_torchs() -> None:
    """Random numbers of all sizes, both signs, and just between two neighbours: the same bits as torch's."""
    import torch

    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(10_000) * 2.0 ** rng.integers(-120, 120, 10_000)
    between = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -1 - 3 * 2**-8, 0.0, -0.0])
    values = np.concatenate([drawn, between]).astype(np.float32)
    assert np.array_equal(to_bfloat16(values), torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())
    assert to_float32(to_bfloat16(values[-6:-2])).tolist() == [1.0, 1 + 2**-6, -1.0, -1 - 2**-6]


def test_a_made_set_looks_like_fine_tuning(tiny: dict[str, Path]) -> None:
    """Six sharded models that load; each expert is the base but for small changes, and many entries are the base's."""
    from transformers import AutoModelForCausalLM

    base = Weights(tiny["base"])
    assert len(base) == len(entries_of(SHAPES["tiny"]))
    assert (tiny["base"] / INDEX).is_file()
    shares = []
    for name in EXPERTS:
        expert = Weights(tiny[name])
        same = sum(int(np.count_nonzero(expert[one].data == base[one].data)) for one in base)
        shares.append(same / sum(tensor.data.size for tensor in base.values()))
        change = expert["lm_head.weight"].float32() - base["lm_head.weight"].float32()
        assert 0.001 < np.linalg.norm(change) / np.linalg.norm(base["lm_head.weight"].float32()) < 0.05
        assert (change**4).mean() / (change**2).mean() ** 2 > 6, "heavy tails: a normal distribution has 3"
        assert len(np.unique(np.abs(change))) < change.size / 20, "many changes are of equal size"
    assert shares == sorted(shares, reverse=True)
    assert (round(shares[0], 1), round(shares[-1], 1)) == (0.7, 0.4)
    model = AutoModelForCausalLM.from_pretrained(tiny["medcode"])
    assert model.num_parameters() == read_json(tiny["base"].parent / MARKER)["parameters"] == 493_888


def test_sets_have_the_parameters_that_they_are_named_for() -> None:
    """The presets hold 0.1 and 1.0 billion parameters."""
    counts = {size: sum(entry.nbytes // 2 for entry in entries_of(shape)) for size, shape in SHAPES.items()}
    assert {size: round(count / 1e9, 2) for size, count in counts.items()} == {
        "tiny": 0.0,
        "nano": 0.0,
        "0.1b": 0.11,
        "1b": 1.0,
    }


def test_a_set_is_made_once_and_is_the_same_wherever_it_is_made(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Asked for again it is not written again; elsewhere it has the same bytes, with another seed others."""
    before = (tiny["medcode"] / INDEX).stat().st_mtime_ns
    assert make("tiny", tiny["base"].parent.parent) == tiny
    assert (tiny["medcode"] / INDEX).stat().st_mtime_ns == before
    there, other = make("tiny", tmp_path / "a"), make("tiny", tmp_path / "b", seed=1)
    own, same, unlike = (Weights(folders["medcode"])["lm_head.weight"].data for folders in (tiny, there, other))
    assert np.array_equal(own, same)
    assert not np.array_equal(own, unlike)


def test_the_nano_set_has_the_embedded_model_as_its_base(tmp_path: Path) -> None:
    """Every tensor of its base is that of experts/nano."""
    made, nano = Weights(make("nano", tmp_path)["base"]), Weights(NANO)
    assert made.shapes == nano.shapes
    assert all(np.array_equal(made[name].data, nano[name].data) for name in nano)


def test_differences_are_counted_in_steps_of_bfloat16(tmp_path: Path) -> None:
    """Planted: one step at 1, three at 64, zeros of two signs, nothing; each is told for what it is."""
    first = write_model(tmp_path / "first", [1.0, 64.0, 0.0, 5.0])
    second = write_model(tmp_path / "second", [1 + 2**-7, 64 + 3 * 2**-1, -0.0, 5.0])
    recipe = one_expert("linear")
    folders = {"base": first, "expert": first}
    found = compare(first, second, recipe, folders, explain=True)
    assert found == Gap(entries=4, largest=1.5, roundings_there=3.0, most_roundings=3.0, differ=2, far=1, unexplained=1)
    assert steps_of(np.array([1.0, 1.99, 2.0, 0.75])).tolist() == [2**-7, 2**-7, 2**-6, 2**-8]


@pytest.mark.parametrize(("method", "more", "tied"), [("ties", {}, 4), ("breadcrumbs", {"gamma": 0.125}, 4)])
def test_what_equal_magnitudes_explain_is_told_from_what_they_do_not(
    tmp_path: Path, method: str, more: Mapping[str, float], tied: int
) -> None:
    """Two merges that keep other ones of equal changes at a cut differ rightly; a fifth difference is one too many."""
    # Changes 4, 3, 2, 2, 2, 2, 1, 0 by size, half of them kept: two of the four of size 2 stay (TIES), or three.
    base = write_model(tmp_path / "base", [8.0] * 8)
    expert = write_model(tmp_path / "expert", [12.0, 11, 10, 10, 10, 10, 9, 8])
    first = write_model(tmp_path / "first", [12.0, 11, 10, 10, 8, 8, 8, 8])
    second = write_model(tmp_path / "second", [12.0, 11, 8, 8, 10, 10, 8, 8])
    third = write_model(tmp_path / "third", [12.0, 8, 8, 8, 10, 10, 8, 8])
    recipe, folders = one_expert(method, density=0.5, **more), {"base": base, "expert": expert}
    right, wrong = (compare(first, one, recipe, folders, explain=True) for one in (second, third))
    assert (right.far, right.unexplained) == (tied, 0)
    assert (wrong.far, wrong.unexplained) == (tied + 1, 1)


def test_rounding_explains_little_numbers_beside_a_large_base_and_votes_that_are_even(tmp_path: Path) -> None:
    """What is left of 1 - 1 may be off by a rounding of 1, and +2 against -2 is anybody's; against -1 it is not."""
    one = write_model(tmp_path / "one", [1.0, 4, 4])
    folders = {
        "base": one,
        "left": write_model(tmp_path / "left", [1.0, 6, 6]),
        "right": write_model(tmp_path / "right", [1.0, 2, 3]),
    }
    recipe = one_expert("ties") | {
        "models": [{"model": name, "parameters": {"weight": 0.3, "density": 1.0}} for name in ("left", "right")]
    }
    first = write_model(tmp_path / "first", [1e-7, 6, 6])
    second = write_model(tmp_path / "second", [3e-7, 2, 6])
    third = write_model(tmp_path / "third", [3e-5, 2, 3])
    right, wrong = (compare(first, one, recipe, folders, explain=True) for one in (second, third))
    assert (right.far, right.unexplained) == (2, 0)
    assert (wrong.far, wrong.unexplained) == (3, 2)


def test_weights_that_differ_for_a_whole_tensor_are_told_as_such(tmp_path: Path) -> None:
    """Of two merges by norms one changes a sixteenth more all over, which is explained; more at one place is not."""
    base = write_model(tmp_path / "base", [0.0] * 64)
    first = write_model(tmp_path / "first", [17.0] * 64)
    second = write_model(tmp_path / "second", [16.0] * 64)
    third = write_model(tmp_path / "third", [16.0] * 63 + [8])
    folders = {"base": base, "expert": second}
    right, wrong = (compare(first, one, one_expert("model_stock"), folders, explain=True) for one in (second, third))
    assert (right.far, right.unexplained, right.factor) == (64, 0, pytest.approx(1 / 16))
    assert (wrong.far, wrong.unexplained) == (64, 1)


def test_the_keep_rate_is_read_from_the_output(tmp_path: Path) -> None:
    """Of four entries that one expert alone changed three are no longer the base's; what two changed is left out."""
    folders = {
        "base": write_model(tmp_path / "base", [1.0] * 6),
        "one": write_model(tmp_path / "one", [2.0, 2, 2, 1, 2, 1]),
        "two": write_model(tmp_path / "two", [1.0, 1, 1, 2, 2, 1]),
    }
    recipe = one_expert("dare_ties") | {"models": [{"model": "one"}, {"model": "two"}]}
    merged = write_model(tmp_path / "merged", [3.0, 1, 3, 3, 1, 1])
    found = look_at_drops(merged, recipe, folders)
    assert found == Kept(alone=4, alone_kept=3, entries=6, total=6.0, squares=12.0)
    assert (found.rate, found.mean, found.deviation) == (0.75, 1.0, 1.0)


def test_a_process_own_memory_is_told_from_mapped_files(tmp_path: Path) -> None:
    """64 MiB of a process's own are seen; 64 MiB of a mapped file, every page of them touched, are not."""
    own = "import time; held = bytearray(b'x') * (64 << 20); time.sleep(0.2)"
    file = tmp_path / "file"
    file.write_bytes(bytes(64 << 20))
    mapped = (
        f"import mmap, time; file = open({str(file)!r}, 'rb'); held = mmap.mmap(file.fileno(), 0, access=1)\n"
        "total = sum(held[at] for at in range(0, len(held), 4096)); time.sleep(0.2)"
    )
    first, second = (run_merge([sys.executable, "-c", code], tmp_path / "log", {}) for code in (own, mapped))
    assert first.code == second.code == 0
    assert 64 < first.anonymous_mb < 84
    assert second.anonymous_mb < 20
    assert anonymous_kb("Name:\tx\nRssAnon:\t  1234 kB\nRssFile:\t 9 kB\n") == 1234


def test_cpu_is_that_of_the_process_and_a_failure_is_told(tmp_path: Path) -> None:
    """Work costs CPU, sleep does not; both take time; the exit code and what was said are kept."""
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('said')\nraise SystemExit(3)"
    worked = run_merge([sys.executable, "-c", busy], tmp_path / "log", {})
    slept = run_merge([sys.executable, "-c", "import time; time.sleep(0.4)"], tmp_path / "other", {})
    assert worked.code == 3
    assert (tmp_path / "log").read_text() == "said\n"
    assert 0.3 <= worked.cpu < 0.6
    assert slept.cpu < 0.2
    assert slept.wall >= 0.4


@pytest.mark.parametrize("threads", [1, 2])
def test_the_limit_reads_everything_and_leaves_nothing(tmp_path: Path, threads: int) -> None:
    """Files of odd sizes are read to the end, and the file that was written is gone."""
    sources = [tmp_path / "a", tmp_path / "b"]
    for path, size in zip(sources, (3, (1 << 20) + 7), strict=True):
        path.write_bytes(bytes(size))
    limit = measure_limit(sources, tmp_path / "out", (2 << 20) + 5, threads)
    assert limit.with_sync >= limit.without_sync > 0
    assert sorted(tmp_path.iterdir()) == sources


def test_ratios_are_taken_pair_by_pair() -> None:
    """The second pair ran on a machine twice as slow: its ratio is the same, and the bound on memory is held to."""
    runs = {
        MERGEKIT: [Spent(0, 8.0, 10.0, 900), Spent(0, 16.0, 20.0, 901)],
        STREAM: [Spent(0, 1.0, 2.0, 50), Spent(0, 2.0, 4.0, 241)],
    }
    found = Measured("linear", 4, 2, runs, [Limit(0.5, 0.25, 0.25), Limit(1.0, 0.5, 0.5)])
    assert found.ratio(MERGEKIT, STREAM) == "8.0"
    assert found.middle(STREAM, "cpu") == "1.50 (1.00–2.00)"
    start = Measured("linear", 0, 0, {STREAM: [Spent(0, 0.5, 0.5, 9)]})
    over = limit_table([found], start).splitlines()[-1].strip("| ").split(" | ")[-4:]
    assert over == ["2.7", "2.0", "2.2 (2.0–2.3)", "13.3"]
    assert memory_lines([found], largest=10.0)[0].endswith("is 240: NOT KEPT.")
    assert memory_lines([found], largest=11.0)[0].endswith("is 244: kept.")


def test_every_recipe_of_the_benchmark_is_merged_in_bfloat16() -> None:
    """The shipped recipes of all methods, with nothing changed but the type."""
    for method in (*METHODS, *MORE_METHODS):
        recipe, shipped = read_recipe(method), load_recipe(ROOT / "merge_recipes" / f"{method}.yml")
        assert recipe == {**shipped, "dtype": "bfloat16"}
        assert recipe["merge_method"] == method


def test_candidates_have_numbers_of_their_own() -> None:
    """No two of twenty candidates share a density, nor two experts of one; all lie in their ranges."""
    recipe, rng = load_recipe(ROOT / "merge_recipes" / "breadcrumbs.yml"), random.Random(0)
    drawn = [entry["parameters"] for _ in range(20) for entry in draw(recipe, rng)["models"]]
    assert len({one["density"] for one in drawn}) >= 98
    for one in drawn:
        assert all(RANGES[name][0] <= value <= RANGES[name][1] for name, value in one.items())
    assert draw(recipe, random.Random(1)) == draw(recipe, random.Random(1))


def run(folder: Path, module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--folder", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_streaming_side_runs_alone(tmp_path: Path) -> None:
    """One method on the tiny set: a line with its own costs and none of mergekit's."""
    said = run(
        tmp_path, "benchmarks.merge", "--size", "tiny", "--methods", "linear", "--repeats", "1", "--only", STREAM
    )
    line = next(line for line in said.splitlines() if line.startswith("| linear"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert [bool(cell) for cell in cells] == [True, False, True, False, False, True, False, True]
    assert 0 < float(cells[2]) < 30
    assert float(cells[7]) < 202


@pytest.mark.slow
def test_both_sides_run_and_agree(tmp_path: Path) -> None:
    """Three methods on the tiny set, with whole builds: no difference is unexplained, half of the changes drop."""
    arguments = ("--size", "tiny", "--methods", "linear", "ties", "dare_ties", "--repeats", "1", "--whole")
    said = run(tmp_path, "benchmarks.merge", *arguments)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    gaps = {(row[0], row[1]): row for row in rows if row[1] in ("float32", "bfloat16")}
    assert len(gaps) == 4
    assert float(gaps["linear", "float32"][4]) <= 1.0
    assert gaps["linear", "float32"][7] == gaps["ties", "float32"][7] == "0"
    rates = [float(row[2].rstrip("%")) for row in rows if row[0] == "dare_ties" and len(row) == 5]
    assert rates == [pytest.approx(50, abs=2)] * 3
    assert {row[0] for row in rows} >= {"linear, first", "ties, again"}


@pytest.mark.slow
def test_a_candidate_is_the_same_merge_in_all_three_ways(tmp_path: Path) -> None:
    """Task arithmetic on the tiny set: the living model is what mergekit wrote, to a few roundings of float32."""
    arguments = ("--size", "tiny", "--methods", "task_arithmetic", "--candidates", "2", "--questions", "1")
    line = next(row for row in run(tmp_path, "benchmarks.merge_search", *arguments).splitlines() if "| task_" in row)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert float(cells[-2]) < 1e-6
    assert cells[-1] == "0.000%"

"""The sampling plan keeps its quotas, its order and its continuation."""

from __future__ import annotations

from collections import Counter

from mediflow.taxonomy import load_taxonomy, plan


def test_a_longer_plan_continues_a_shorter_one() -> None:
    """Asking for more keeps what was planned; the seed alone decides."""
    taxonomy = load_taxonomy()

    assert plan(taxonomy, 40, 1) == plan(taxonomy, 400, 1)[:40]
    assert plan(taxonomy, 40, 1) != plan(taxonomy, 40, 2)


def test_tasks_and_inputs_are_visited_equally_often() -> None:
    """Two whole blocks visit each (task, input) pair twice."""
    taxonomy = load_taxonomy()
    pairs = len(taxonomy.tasks) * len(taxonomy.inputs())
    seen = Counter((cell.task_type, cell.document_type, cell.section) for cell in plan(taxonomy, 2 * pairs, 0))

    assert set(seen.values()) == {2}
    assert len(seen) == pairs


def test_weights_give_shares() -> None:
    """Hard levels three to one, no 'low', temperatures seven to three (the paper's); a task of weight 0 is absent."""
    taxonomy = load_taxonomy()
    tasks = dict.fromkeys(taxonomy.tasks, 1.0) | {"summarization": 0.0}
    cells = plan(taxonomy, 6000, 0, {"task_type": tasks})
    levels = Counter(cell.difficulty for cell in cells)

    assert "low" not in levels
    assert abs(levels["hard"] / levels["moderate"] - 3) < 0.5
    assert abs(sum(cell.temperature == 1.25 for cell in cells) / 6000 - 0.3) < 0.02
    assert not [cell for cell in cells if cell.task_type == "summarization"]

"""The log of a training: a row for each thing told, a bar on a terminal, and a loss that must be finite.

`<run>/log/metrics.jsonl` has one row for each log: training, step, epoch, loss, eval_loss, learning_rate, tokens
(without padding, but for packed rows), seconds, and whatever else the trainer reports.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.progress import Bar
from medsmith.records import read_jsonl, write_jsonl
from medsmith.run import Run

METRICS = Path("log") / "metrics.jsonl"


class Metrics:
    """The rows of one training in log/metrics.jsonl; rows past the step we resume from are written anew."""

    def __init__(self, path: Path, training: str, step: int) -> None:
        self.path = path
        self.training = training
        earlier = whole_rows(path)
        self.rows = [row for row in earlier if row["training"] == training and 0 < step >= row["step"]]
        others = [row for row in earlier if row["training"] != training]
        write_jsonl(path, others + self.rows)
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._began = time.monotonic()

    def append(self, step: int, tokens: int, values: dict[str, Any]) -> None:
        """Write one row, with the seconds of all tries."""
        seconds = round(self._before + time.monotonic() - self._began, 2)
        row = {"training": self.training, "step": step, **values, "tokens": tokens, "seconds": seconds}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def log_row(this: Run, training: str, step: int, **values: Any) -> None:
    """Put one more row into log/metrics.jsonl, in the place of an earlier one of the same training and step."""
    path = this.folder / METRICS
    others = [row for row in whole_rows(path) if (row["training"], row["step"]) != (training, step)]
    write_jsonl(path, [*others, {"training": training, "step": step, **values}])


def read_log(this: Run, training: str) -> list[dict[str, Any]]:
    """The rows of one training."""
    return [row for row in whole_rows(this.folder / METRICS) if row["training"] == training]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """What an earlier try logged; a kill may have torn the last line."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return list(read_jsonl(path))


def watcher(metrics: Metrics, description: str, resumed_at: int) -> Any:
    """A callback (built here: its base class lives in transformers) for progress, metrics and the check of the loss."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        bar: Bar | None = None
        note = ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.bar = Bar(description, total=state.max_steps, unit="steps", done=resumed_at)
            self.bar.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if self.bar is not None:
                self.bar.advance(note=self.note)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **rest: Any) -> None:
            # The summary at the end counts its mean from where we resumed; run_trainer makes its own from the rows.
            if not state.is_world_process_zero or "train_loss" in logs:
                return
            for name in ("loss", "eval_loss"):
                if name in logs and not math.isfinite(logs[name]):
                    raise UserError(
                        f"{description}: {name} is {logs[name]} at step {state.global_step} (one of the last "
                        f"{int(args.logging_steps)} went wrong); lower learning_rate or max_grad_norm in the recipe"
                    )
            if "loss" in logs:
                self.note = f"loss {logs['loss']:.3f}"
            values = {key: value for key, value in logs.items() if not key.startswith(("num_", "train_"))}
            metrics.append(state.global_step, state.num_input_tokens_seen, values)

        def close(self) -> None:
            if self.bar is not None:
                self.bar.__exit__(None, None, None)

    return Watcher()

"""What tokens cost: from the recipe, from a price file of the user's, or from the one that is shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from medsmith.config import Block, load
from medsmith.errors import UserError, nearest
from medsmith.yaml_files import read_yaml

SHIPPED = Path(__file__).with_name("prices.yml")
SNAPSHOT = re.compile(r"(?:-\d{4}-\d{2}-\d{2}|-\d{8}|-latest|@.*)$")
"""What is put behind a model's name to mean its state of one day; it costs what the model costs."""

EXTRA_CALLS = 0.1
"""Of the planned calls, so many more: repairs, second tries, refills. Assumed where no pilot tells; up to twice it."""


class Price(Block):
    """What the teacher costs, in any currency, per million tokens."""

    prompt_per_million: float = Field(ge=0, description="price of a million prompt tokens")
    completion_per_million: float = Field(ge=0, description="price of a million completion tokens")
    batch_factor: float = Field(1.0, ge=0, le=1, description="what the provider's batch mode costs of that")
    date: str | None = Field(None, description="when the price was looked up")
    source: str | None = Field(None, description="where")

    def cost(self, prompt_tokens: float, completion_tokens: float, *, batch: bool = False) -> float:
        """What so many tokens cost."""
        cost = (prompt_tokens * self.prompt_per_million + completion_tokens * self.completion_per_million) / 1e6
        return cost * self.batch_factor if batch else cost


def find_price(model: str, file: Path | None = None) -> Price | None:
    """The price of a model, or of the model of which it is a dated snapshot; None where `file` does not name it.

    Raises:
        UserError: no such file, or an entry that is no price.
    """
    where = file or SHIPPED
    prices = read_yaml(where)
    for name in dict.fromkeys((model, SNAPSHOT.sub("", model))):
        if name in prices:
            try:
                # A date in YAML needs no quotes.
                entry = {key: str(value) if key == "date" else value for key, value in prices[name].items()}
                return load(Price, entry)
            except (UserError, AttributeError) as error:
                raise UserError(f"{where}, '{name}': {error}") from None
    return None


def extra_calls(config: Any) -> float:
    """Further calls for each that the settings of a command plan; none where they ask for no repair and no refill."""
    return EXTRA_CALLS if getattr(config, "repair", True) or getattr(config, "refills", 0) else 0.0


def no_price(model: str, file: Path | None = None) -> str:
    """What to say where a price is needed and there is none."""
    where = file or SHIPPED
    near = nearest(model, read_yaml(where))
    return f"budget.max_cost needs price: {where.name} does not name '{model}' ({near}); give price or a price file"

"""How large a pipeline's data will be, where that is known before they exist: what `medsmith plan` counts costs from.

sizes:                                  # in a pipeline's YAML; nothing reads it when the pipeline runs
  model: {parameters: 3.82e+9, layers: 32, hidden: 3072}
  steps:
    corpus-pubmed: {documents: 39.8e+6, tokens: 48.0e+9, from: "the paper, Table 1"}
    prepare-*: {tokens_per_row: 300, from: assumed}
"""

from __future__ import annotations

from pydantic import Field

from medsmith.config import Block


class Model(Block):
    """The model that is trained, read with and scored."""

    parameters: float = Field(gt=0, description="all of them")
    layers: int = Field(ge=1, description="of attention")
    hidden: int = Field(ge=1, description="numbers of a token between layers")


class Gpu(Block):
    """What a GPU does, and how much of it is put to use."""

    name: str = Field("A100-80GB", description="what the hours are of")
    tflops: float = Field(312.0, gt=0, description="of the model's arithmetic (bf16, dense), by the maker")
    mfu: float = Field(0.4, gt=0, le=1, description="share of them that a training or a reading puts to use")
    writing_mfu: float = Field(0.05, gt=0, le=1, description="the same while a model writes, token by token")


class Size(Block):
    """How much one step makes. What is not known is 0 and counted as nothing."""

    documents: float = Field(0, ge=0, description="of a corpus, or asked about")
    tokens: float = Field(0, ge=0, description="of all documents")
    rows: float = Field(0, ge=0, description="rows, pairs or questions made")
    tokens_per_row: float = Field(0, ge=0, description="of a row as it is trained on or read")
    calls: float = Field(0, ge=0, description="calls of a teacher, where they are not one a row")
    prompt_tokens: float = Field(0, ge=0, description="of a call, beside the document it is about")
    completion_tokens: float = Field(0, ge=0, description="of a call")
    source: str = Field(alias="from", description="where the numbers are from, or `assumed`")


class Benchmark(Block):
    """How much one benchmark asks of a model."""

    items: float = Field(ge=0, description="prompts, with shots and repeats")
    read: float = Field(ge=0, description="tokens of a prompt")
    written: float = Field(0, ge=0, description="tokens of an answer")


class Published(Block):
    """What somebody else's run of the same chain took."""

    gpu_hours: float = Field(gt=0, description="of the same GPU")
    what: str = Field(description="what they are of, and where that is said")
    without: list[str] = Field([], description="steps (`*` allowed) that it does not hold")


class Sizes(Block):
    """Of all steps, by name (`*` allowed; the first that fits)."""

    model: Model
    gpu: Gpu = Gpu()
    block: int = Field(4096, ge=1, description="tokens that attend to one another, in training")
    bytes_per_token: float = Field(4.5, gt=0, description="of text")
    steps: dict[str, Size] = {}
    benchmarks: dict[str, Benchmark] = {}
    published: Published | None = None

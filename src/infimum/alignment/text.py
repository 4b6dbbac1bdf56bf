"""Text in and out: prompts to canvases, completions to rewards, preference pairs and examples, by TRL's columns."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from infimum.alignment.encoding import answer_of, encoded, rows_of
from infimum.alignment.preference import pairs_of
from infimum.alignment.rollouts import Rollouts
from infimum.discrete import completions
from infimum.errors import UserError
from infimum.language.rewards import RewardFunction, call_rewards
from infimum.language.tokens import decoded

__all__ = ["TextPrompts", "TextReward", "encoded", "text_examples", "text_pairs", "text_prompts"]


@dataclass(frozen=True)
class TextPrompts:
    """Prompts as canvases.

    Attributes:
        canvases: "tokens", "target", "present" (N, L), prompts padded on the left: for `PolicyLearner`.
        rows: of the data, a mapping each: for `TextReward`.
        truncated: how many prompts were cut.
    """

    canvases: dict[str, Tensor]
    rows: list[Mapping[str, Any]]
    truncated: int


def text_prompts(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    max_completion_length: int,
    mask_id: int,
    pad_id: int,
    max_prompt_length: int | None = None,
) -> TextPrompts:
    """Canvases with room for a completion behind each prompt.

    Args:
        rows: a list, or a Dataset of the datasets library, with a column ``prompt`` (TRL): a text as it is, or messages, see
            `encoded`; where the last message is the assistant's, completions continue it.
        tokenizer: of transformers.
        max_completion_length: tokens to be written.
        mask_id: of the model.
        pad_id: stands where nothing is; nothing attends to it.
        max_prompt_length: longer prompts lose their beginning, with a warning; None: none is cut.

    Raises:
        UserError: no rows, no such column, unlike columns, an empty prompt, one that the tokenizer or its template refuses, or room
            for less than one token.
    """
    if max_prompt_length is not None and max_prompt_length < 1:
        raise UserError(f"max_prompt_length is {max_prompt_length}, expected at least 1, or None to cut nothing")
    found = rows_of(rows, ["prompt"], "prompts")
    tokens = [encoded(tokenizer, row["prompt"], f"prompt {i}") for i, row in enumerate(found)]
    if empty := [i for i, each in enumerate(tokens) if not each]:
        raise UserError(f"prompt {empty[0]} is empty: every row needs one token")
    truncated = 0
    if max_prompt_length is not None:
        truncated = sum(len(each) > max_prompt_length for each in tokens)
        tokens = [each[-max_prompt_length:] for each in tokens]
        if truncated:
            warnings.warn(
                f"{truncated} of {len(tokens)} prompts are longer than {max_prompt_length} tokens and lose their beginning",
                stacklevel=2,
            )
    canvases = completions(tokens, max_completion_length, pad_id=pad_id, fill=mask_id)
    return TextPrompts(canvases, [*found], truncated)


@dataclass
class TextReward:
    """Reward functions of TRL on what `PolicyLearner` has written.

    Functions get TRL's arguments: ``prompts``, ``completions``, ``completion_ids``, the columns of the data, and

    - ``trainer_state``: its ``global_step`` is ``step`` below;
    - ``log_extra(column, values)``: keeps a list of one value a completion in ``extra``;
    - ``log_metric(name, value)``: keeps a number in ``metrics``; of several by one name, their mean.

    Args:
        functions: see `call_rewards`.
        prompts: those that the learner got.
        tokenizer: of transformers.
        end: token that ends a text; None: none does.
        weights: of the functions.
        decode_all: decode what stands behind the end as well, as d1 and SPG do; the likelihood never counts it.
        step: batches that were rewarded before: 0, or the step from which a run is resumed; it counts on.

    Attributes:
        means: of each function, for the last batch.
        extra, metrics: what the functions logged for the last batch.
    """

    functions: Sequence[RewardFunction]
    prompts: TextPrompts
    tokenizer: Any
    end: int | None = None
    weights: Sequence[float] | None = None
    decode_all: bool = False
    step: int = 0

    def __post_init__(self) -> None:
        """Nothing was rewarded yet."""
        self.means: dict[str, float] = {}
        self.extra: dict[str, list[Any]] = {}
        self.metrics: dict[str, float] = {}

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """(B,), float64."""
        rows = [self.prompts.rows[int(i)] for i in rollouts.rows]
        ids = [
            self._until_end(row[at].tolist()) for row, at in zip(rollouts.tokens, rollouts.canvas.target, strict=True)
        ]
        texts = [decoded(self.tokenizer, one) for one in ids]
        chat = [not isinstance(row["prompt"], str) for row in rows]
        written = [
            [{"role": "assistant", "content": text}] if is_chat else text
            for text, is_chat in zip(texts, chat, strict=True)
        ]
        names = [name for name in rows[0] if name not in ("prompt", "completion")]
        columns = {name: [row[name] for row in rows] for name in names}
        logged: dict[str, list[float]] = {}
        self.extra = {}
        total, self.means = call_rewards(
            self.functions, [row["prompt"] for row in rows], written, ids, columns, weights=self.weights,
            trainer_state=SimpleNamespace(global_step=self.step),
            log_extra=lambda column, values: self.extra.update({column: list(values)}),
            log_metric=lambda name, value: logged.setdefault(name, []).append(float(value)),
        )  # fmt: skip
        self.metrics = {name: sum(values) / len(values) for name, values in logged.items()}
        self.step += 1
        return total

    def _until_end(self, ids: list[int]) -> list[int]:
        if self.end is None or self.decode_all or self.end not in ids:
            return ids
        return ids[: ids.index(self.end)]


def text_pairs(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    pad_id: int,
    end: int | None = None,
    max_length: int | None = None,
) -> dict[str, Tensor]:
    """Preference pairs for `PreferenceLearner` from the columns ``prompt``, ``chosen`` and ``rejected``: texts, or messages.

    Args:
        rows: a list, or a Dataset of the datasets library.
        tokenizer: of transformers.
        pad_id: stands where nothing is; nothing attends to it, and it is never scored.
        end: put behind every completion; None: nothing is.
        max_length: tokens of prompt and completion together; longer prompts lose their beginning, with a warning.

    Raises:
        UserError: no rows, a missing column, unlike columns, a completion that is empty, or neither a text nor one message of the
            assistant, one that is too long without any prompt, or one that the tokenizer or its template refuses.
    """
    found = rows_of(rows, ["prompt", "chosen", "rejected"], "preference data")
    prompts = [encoded(tokenizer, row["prompt"], f"prompt {i}") for i, row in enumerate(found)]
    answers = {
        name: [answer_of(tokenizer, row, name, i, end) for i, row in enumerate(found)]
        for name in ("chosen", "rejected")
    }
    if max_length is not None:
        longest = [max(map(len, both)) for both in zip(*answers.values(), strict=True)]
        prompts = _cut(prompts, longest, max_length)
    return pairs_of(*(completions(prompts, answers[name], pad_id=pad_id) for name in ("chosen", "rejected")))


def text_examples(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    end: int,
    max_length: int,
    pad_id: int,
    pad_in_loss: bool = True,
) -> dict[str, Tensor]:
    """Examples for `SequenceLearner` from the columns ``prompt`` and ``completion`` (TRL): texts, or messages.

    A prompt is given and never masked. Completions are filled up with ``end`` to the length of the longest, and the ends are part
    of what is modelled: that is how LLaDA learns to stop (2502.09992).

    Args:
        rows: a list, or a Dataset of the datasets library.
        tokenizer: of transformers.
        end: token that ends a text; one at least stands behind every completion.
        max_length: tokens of prompt and completion together; longer prompts lose their beginning, with a warning.
        pad_id: stands before the prompt where nothing is; nothing attends to it.
        pad_in_loss: model the ends that fill up; False: leave them out behind the first, as LLaDA-1.5 does in its preferences.

    Returns:
        "tokens", "target" and "present", (N, L), with at most ``max_length`` tokens present in a row.

    Raises:
        UserError: as for `text_pairs`.
    """
    found = rows_of(rows, ["prompt", "completion"], "examples")
    prompts = [encoded(tokenizer, row["prompt"], f"prompt {i}") for i, row in enumerate(found)]
    answers = [answer_of(tokenizer, row, "completion", i, end) for i, row in enumerate(found)]
    longest = max(map(len, answers))
    prompts = _cut(prompts, [longest if pad_in_loss else len(answer) for answer in answers], max_length)
    if pad_in_loss:
        answers = [answer + [end] * (longest - len(answer)) for answer in answers]
    return completions(prompts, answers, pad_id=pad_id)


def _cut(prompts: list[list[int]], longest: list[int], max_length: int) -> list[list[int]]:
    """Prompts that fit before completions of some lengths."""
    kept, cut = [], 0
    for i, (prompt, length) in enumerate(zip(prompts, longest, strict=True)):
        room = max_length - length
        if room < 0:
            raise UserError(f"a completion of row {i} is {length} tokens long, more than max_length {max_length}")
        cut += len(prompt) > room
        kept.append(prompt[len(prompt) - min(room, len(prompt)) :])
    if cut:
        warnings.warn(
            f"{cut} of {len(kept)} prompts lose their beginning to fit into {max_length} tokens", stacklevel=3
        )
    return kept

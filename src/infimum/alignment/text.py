"""Text in and out: prompts to canvases, completions to rewards, preference pairs, by TRL's columns."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from infimum.alignment.learner import Rollouts
from infimum.alignment.preference import pairs_of
from infimum.discrete import completions
from infimum.errors import UserError
from infimum.language.rewards import RewardFunction, call_rewards

__all__ = ["TextPrompts", "TextReward", "encoded", "text_pairs", "text_prompts"]

Message = Mapping[str, Any]


def encoded(tokenizer: Any, prompt: Any) -> list[int]:
    """Tokens of a prompt: a text as it is, or messages by the tokenizer's chat template with the assistant's turn opened.

    Raises:
        UserError: neither, or messages for a tokenizer without a template.
    """
    if isinstance(prompt, str):
        return [int(token) for token in tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    if not isinstance(prompt, Sequence) or not all(isinstance(each, Mapping) and "content" in each for each in prompt):
        raise UserError(f"a prompt is a text, or a list of messages with role and content, got {str(prompt)[:80]!r}")
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError("the prompt is a list of messages and the tokenizer has no chat template: pass texts")
    text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


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
        rows: a list, or a Dataset of the datasets library, with a column ``prompt`` (TRL): a text or messages.
        tokenizer: of transformers.
        max_completion_length: tokens to be written.
        mask_id: of the model.
        pad_id: stands where nothing is; nothing attends to it.
        max_prompt_length: longer prompts lose their beginning, with a warning; None: none is cut.

    Raises:
        UserError: no rows, no such column, an empty prompt.
    """
    rows = [dict(row) for row in rows]
    if not rows:
        raise UserError("there are no prompts, expected at least 1 row")
    for i, row in enumerate(rows):
        if "prompt" not in row:
            raise UserError(f"row {i} has no column prompt: it has {', '.join(row)}")
    tokens = [encoded(tokenizer, row["prompt"]) for row in rows]
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
    return TextPrompts(canvases, rows, truncated)


@dataclass
class TextReward:
    """Reward functions of TRL on what `PolicyLearner` has written.

    Args:
        functions: see `call_rewards`.
        prompts: those that the learner got.
        tokenizer: of transformers.
        end: token that ends a text; None: none does.
        weights: of the functions.
        decode_all: decode what stands behind the end as well, as d1 and SPG do; the likelihood never counts it.

    Attributes:
        means: of each function, for the last batch.
    """

    functions: Sequence[RewardFunction]
    prompts: TextPrompts
    tokenizer: Any
    end: int | None = None
    weights: Sequence[float] | None = None
    decode_all: bool = False

    def __post_init__(self) -> None:
        """Nothing was rewarded yet."""
        self.means: dict[str, float] = {}

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """(B,), float64."""
        rows = [self.prompts.rows[int(i)] for i in rollouts.rows]
        ids = [
            self._until_end(row[at].tolist()) for row, at in zip(rollouts.tokens, rollouts.canvas.target, strict=True)
        ]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        chat = [not isinstance(row["prompt"], str) for row in rows]
        written = [
            [{"role": "assistant", "content": text}] if is_chat else text
            for text, is_chat in zip(texts, chat, strict=True)
        ]
        names = [name for name in rows[0] if name not in ("prompt", "completion")]
        columns = {name: [row[name] for row in rows] for name in names}
        total, self.means = call_rewards(
            self.functions, [row["prompt"] for row in rows], written, ids, columns, weights=self.weights
        )
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
        UserError: no rows, a missing column, an empty completion, or one that is too long without any prompt.
    """
    rows = [dict(row) for row in rows]
    if not rows:
        raise UserError("there are no preference pairs, expected at least 1 row")
    found: dict[str, list[list[int]]] = {"prompt": [], "chosen": [], "rejected": []}
    for i, row in enumerate(rows):
        if lacking := [name for name in found if name not in row]:
            raise UserError(f"row {i} has no column {lacking[0]}: preference data have prompt, chosen and rejected")
        found["prompt"].append(encoded(tokenizer, row["prompt"]))
        for name in ("chosen", "rejected"):
            answer = row[name] if isinstance(row[name], str) else row[name][-1]["content"]
            ids = encoded(tokenizer, answer) + ([] if end is None else [end])
            if not ids:
                raise UserError(f"row {i} has an empty {name} completion: every one needs a token")
            found[name].append(ids)
    if max_length is not None:
        found["prompt"] = _cut(found, max_length)
    return pairs_of(*(completions(found["prompt"], found[name], pad_id=pad_id) for name in ("chosen", "rejected")))


def _cut(found: dict[str, list[list[int]]], max_length: int) -> list[list[int]]:
    kept, cut = [], 0
    for i, prompt in enumerate(found["prompt"]):
        room = max_length - max(len(found["chosen"][i]), len(found["rejected"][i]))
        if room < 0:
            raise UserError(
                f"a completion of row {i} is {max_length - room} tokens long, more than max_length {max_length}"
            )
        cut += len(prompt) > room
        kept.append(prompt[len(prompt) - min(room, len(prompt)) :])
    if cut:
        warnings.warn(
            f"{cut} of {len(kept)} prompts lose their beginning to fit into {max_length} tokens", stacklevel=3
        )
    return kept

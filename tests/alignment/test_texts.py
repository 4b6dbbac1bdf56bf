"""Texts as users have them: prompts, pairs, examples and rewards in TRL's columns, and what is told where they are wrong."""

import asyncio
import copy
import functools
import inspect
import json
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch

from infimum.alignment import SPG, PolicyLearner, Rollouts, Sampling, TextReward, text_pairs, text_prompts
from infimum.alignment.text import encoded, text_examples
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, SequenceLearner, canvas_of
from infimum.errors import UserError
from infimum.language.rewards import call_rewards
from infimum.training import Run, train


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[END]", *"abcdefghij", "[MASK]", " "]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[PAD]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[END]")
    found.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} {% endif %}"
    )
    return found


MASK, PAD, END = 12, 0, 1


def letters(prompts, completions, completion_ids, wanted, **_):
    assert len(prompts) == len(completions) == len(completion_ids) == len(wanted)
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [text.count(w) / 5 for text, w in zip(texts, wanted, strict=True)]


def test_texts_in_and_out(tokenizer, tmp_path):
    """Strings and messages; TRL's columns and signature; a reward that only text can tell rises."""
    rows = [{"prompt": "abc", "wanted": "d"}, {"prompt": [{"role": "user", "content": "ba"}], "wanted": "e"}]
    made = text_prompts(rows, tokenizer, max_completion_length=5, mask_id=MASK, pad_id=PAD)
    assert made.canvases["tokens"].shape == (2, 8) and made.canvases["present"].sum(1).tolist() == [8, 8]
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(14, mask_id=MASK, width=32, heads=2, blocks=1)).eval()
    reward = TextReward([letters], made, tokenizer, end=END)
    learner = PolicyLearner(
        model, made.canvases, reward, SPG(masking="random"), batch=4, num_generations=4, lr=1e-2, end=END,
        sampling=Sampling(steps=5, temperature=1.0, forbidden=(PAD,)), clip=1.0, decay=0.0,
    )  # fmt: skip
    train(learner, steps=40, run=Run(tmp_path / "run", quiet=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["reward"] for line in lines]
    assert sum(found[-5:]) / 5 > 0.5 > 0.3 > sum(found[:3]) / 3
    assert set(reward.means) == {"letters"}
    with pytest.warns(UserWarning, match="lose their beginning"):
        cut = text_prompts(rows, tokenizer, max_completion_length=5, mask_id=MASK, pad_id=PAD, max_prompt_length=2)
    assert cut.truncated == 2 and cut.canvases["tokens"][0, :2].tolist() == [3, 4]


def test_text_behind_the_end_is_not_rewarded(tokenizer):
    made = text_prompts([{"prompt": "a", "wanted": "d"}], tokenizer, max_completion_length=5, mask_id=MASK, pad_id=PAD)
    tokens = torch.tensor([[2, 5, END, 5, 5, 5]])
    s = canvas_of(made.canvases, 14, MASK, filled=False)
    rollouts = Rollouts(torch.tensor([0]), tokens, s)
    assert float(TextReward([letters], made, tokenizer, end=END)(rollouts)) == pytest.approx(0.2)
    assert float(TextReward([letters], made, tokenizer, end=END, decode_all=True)(rollouts)) == pytest.approx(0.8)


def test_text_pairs(tokenizer):
    rows = [
        {"prompt": "ab", "chosen": "cd", "rejected": "e"},
        {
            "prompt": [{"role": "user", "content": "a"}],
            "chosen": [{"role": "assistant", "content": "c"}],
            "rejected": [{"role": "assistant", "content": "dd"}],
        },
    ]
    pairs = text_pairs(rows, tokenizer, pad_id=PAD, end=END)
    assert pairs["chosen/tokens"].tolist() == [[2, 3, 4, 5, END], [2, 13, 4, END, PAD]]
    assert pairs["chosen/target"].sum(1).tolist() == [3, 2] and pairs["rejected/target"].sum(1).tolist() == [2, 3]
    with pytest.warns(UserWarning, match="lose their beginning"):
        short = text_pairs(rows, tokenizer, pad_id=PAD, end=END, max_length=4)
    assert short["chosen/tokens"][0].tolist() == [3, 4, 5, END]
    whole = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for wrong in (None, [], [{}], 3, {}, b"b", [{"role": "assistant", "content": None}], ["b"], [None]):
        for name in ("chosen", "rejected"):
            with pytest.raises(UserError, match=f"{name} of row 0"):
                text_pairs([whole | {name: wrong}], tokenizer, pad_id=PAD)
    talk = [
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    for wrong, words in ((talk, "3 messages"), (talk[1:2], "role 'user'")):
        with pytest.raises(UserError, match=words):
            text_pairs([whole | {"chosen": wrong}], tokenizer, pad_id=PAD)
    with pytest.raises(UserError, match="only one of rows 0 and 1 has the column more"):
        text_pairs([whole, whole | {"more": 1}], tokenizer, pad_id=PAD)
    for bad, words in (
        ([], "at least 1 row"), ([{"prompt": "a", "chosen": "b"}], "no column rejected"),
        ([{"prompt": "a", "chosen": "", "rejected": "b"}], "empty chosen"),
        ([{"prompt": 3, "chosen": "a", "rejected": "b"}], "list of messages"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            text_pairs(bad, tokenizer, pad_id=PAD)
    with pytest.raises(UserError, match="more than max_length 2"):
        text_pairs(rows, tokenizer, pad_id=PAD, end=END, max_length=2)


def test_messages_are_continued_and_wrong_ones_named(tokenizer):
    """The assistant's turn is opened, or taken up where it was begun, as in TRL; what fails is told with its row."""
    user, begun = {"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}
    assert encoded(tokenizer, [user]) == [2, 3, 13] and encoded(tokenizer, [user, begun]) == [2, 3, 4, 5]
    turns = copy.copy(tokenizer)
    turns.chat_template = (
        "{% for m in messages %}{{ 'i' if m['role'] == 'user' else 'j' }}{{ m['content'] }}[END]{% endfor %}"
        "{% if add_generation_prompt %}j{% endif %}"
    )
    assert (
        turns.decode(encoded(turns, [user])) == "iab[END]j"
        and turns.decode(encoded(turns, [user, begun])) == "iab[END]jcd"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert encoded(tokenizer, [user | {"content": parts}]) == encoded(tokenizer, [user])
    assert "content" in user and user["content"] == "ab"

    def made(prompt, tokenizer=tokenizer, **options):
        rows = [{"prompt": "a"}, {"prompt": prompt}]
        return text_prompts(rows, tokenizer, max_completion_length=2, mask_id=MASK, pad_id=PAD, **options)

    for prompt, words in (
        ([], "prompt 1 is an empty list"), (None, "prompt 1 is None"), ([{}], "prompt 1 holds"), (["a"], "prompt 1 holds"),
        ([{"role": "user", "content": None}], "content is None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content is"),
        ([{"content": "a"}], "role None"), ("", "prompt 1 is empty"), (b"a", "prompt 1 is b'a'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            made(prompt)
        assert "\n" not in str(caught.value)
    for template in ("{{ raise_exception('no\nsystem') }}", "{% for %}", "{{ messages[7]['content'] }}"):
        broken = copy.copy(tokenizer)
        broken.chat_template = template
        with pytest.raises(UserError, match="prompt 1 cannot be put into the tokenizer's chat template") as caught:
            made([user], broken)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="prompt 0 cannot be cut into tokens"):
        made("a", lambda text, **_: {"ids": []})
    with pytest.raises(UserError, match="chat template, and it has none"):
        made([user], lambda text, **_: {"input_ids": [2]})
    for length in (0, -3):
        with pytest.raises(UserError, match=f"max_prompt_length is {length}"):
            made("a", max_prompt_length=length)
    for rows, words in (
        ([{"prompt": "a", "gold": "1"}, {"prompt": "b"}], "only one of rows 0 and 1 has the column gold"), (["a"], "row 0 is 'a'"),
        ([{"prompt": "a"}, {"text": "b"}], "row 1 has no column prompt"), ({"prompt": ["a"]}, "one mapping"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            inspect.unwrap(text_prompts)(rows, tokenizer, max_completion_length=2, mask_id=MASK, pad_id=PAD)


def test_examples_end_as_often_as_they_are_padded(tokenizer):
    """Ends that fill up are modelled, or not there at all; prompts never are."""
    rows = [
        {"prompt": "abc", "completion": "d"},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "efg"}]},
    ]
    x = text_examples(rows, tokenizer, end=END, max_length=8, pad_id=PAD)
    assert x["tokens"].tolist() == [[2, 3, 4, 5, END, END, END], [PAD, 2, 13, 6, 7, 8, END]]
    assert x["target"].sum(1).tolist() == [4, 4] and x["present"].sum(1).tolist() == [7, 6]
    assert [row[t].tolist() for row, t in zip(x["tokens"], x["target"], strict=True)] == [
        [5, END, END, END],
        [6, 7, 8, END],
    ]
    y = text_examples(rows, tokenizer, end=END, max_length=8, pad_id=PAD, pad_in_loss=False)
    assert y["target"].sum(1).tolist() == [2, 4] and y["present"].sum(1).tolist() == [5, 6]
    assert ((y["tokens"] == END) & y["present"]).sum(1).tolist() == [1, 1]
    with pytest.warns(UserWarning, match="1 of 2 prompts lose their beginning to fit into 6"):
        short = text_examples(rows, tokenizer, end=END, max_length=6, pad_id=PAD)
    assert short["tokens"].tolist() == [[3, 4, 5, END, END, END], [2, 13, 6, 7, 8, END]]
    learner = SequenceLearner(MaskedDiffusion(MaskedDiffusionConfig(14, mask_id=MASK, width=32, heads=2, blocks=1)), x)
    assert learner.x["target"].sum() == 8
    with pytest.raises(UserError, match="row 0 is 4 tokens long, more than max_length 3"):
        text_examples(rows, tokenizer, end=END, max_length=3, pad_id=PAD)
    with pytest.raises(UserError, match="row 0 has no column completion"):
        text_examples([{"prompt": "a"}], tokenizer, end=END, max_length=3, pad_id=PAD)


def test_rewards_get_what_trl_gives(tokenizer):
    """trainer_state, log_extra and log_metric; a column cannot take the place of an argument."""
    rows = [{"prompt": "a", "wanted": "d", "completion_ids": 7, "prompts": 8, "log_metric": 9}]
    made = text_prompts(rows, tokenizer, max_completion_length=3, mask_id=MASK, pad_id=PAD)
    tokens = torch.tensor([[2, 5, 5, 4], [2, 5, 4, 4]])
    canvas = canvas_of({name: each.expand(2, -1) for name, each in made.canvases.items()}, 14, MASK, filled=False)
    rollouts = Rollouts(torch.tensor([0, 0]), tokens, canvas)
    steps = []

    def logging(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, wanted, **_):
        steps.append(trainer_state.global_step)
        counts = [text.count(w) for text, w in zip(completions, wanted, strict=True)]
        log_extra("counts", counts)
        log_metric("most", max(counts))
        log_metric("most", 4.0)
        assert prompts == ["a", "a"] and completion_ids == [[5, 5, 4], [5, 4, 4]]
        return counts

    reward = TextReward([logging], made, tokenizer, step=5)
    assert reward(rollouts).tolist() == reward(rollouts).tolist() == [2.0, 1.0]
    assert steps == [5, 6] and reward.step == 7
    assert reward.extra == {"counts": [2, 1]} and reward.metrics == {"most": 3.0} and reward.means == {"logging": 1.5}


def test_rewards_of_every_kind_of_number():
    def called(*functions, **options):
        return call_rewards(functions, ["p"] * 2, ["a", "b"], [[1], [2]], **options)

    for found in (
        [True, False], [np.float32(1), np.int64(0)], [np.bool_(True), np.float64(0)], [torch.tensor(1), torch.tensor(0.0)], (1, 0),
        torch.tensor([1, 0]), torch.tensor([1.0, 0.0], dtype=torch.bfloat16), np.array([1.0, 0.0]), np.array([True, False]),
        [Fraction(1), Fraction(0)], iter([1, 0]),
    ):  # fmt: skip
        total, _ = called(lambda found=found, **_: found)
        assert total.tolist() == [1.0, 0.0] and total.dtype == torch.float64
    for found, words in (
        (None, "returned None, expected a list"), (0.5, "returned 0.5, expected a list"), (torch.tensor(1.0), "expected a list"),
        ("ab", "returned 'ab', expected a list"), ({"a": 1, "b": 2}, "expected a list"), (torch.ones(2, 1), r"shape \(2, 1\)"),
        ([10**400, 1], "expected a finite number"), ([10**5000, 1], "of 16610 bits"),
        ([1j, 1], "returned 1j"), ([[1.0], 1], "returned"),
        ([np.inf, 1], "returned inf"), ([torch.ones(1), 1], "expected a finite"), (torch.tensor([1.0, math.nan]), "completion 1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            called(lambda found=found, **_: found)
    one = lambda **_: [1, 0]  # noqa: E731
    for weight in (math.nan, math.inf, None, 10**400, "2"):
        with pytest.raises(UserError, match=r"the weight of <lambda>-2 is .*, expected a finite number"):
            inspect.unwrap(call_rewards)([one, one], ["p"] * 2, ["a", "b"], [[1], [2]], weights=[1.0, weight])

    def length(completions):
        return [len(each) for each in completions]

    def other(gold, **_):
        return gold

    first = length
    first_mean = called(first, functools.partial(other, gold=[3, 5]), one)[1]
    assert first_mean == {"length": 1.0, "other": 4.0, "<lambda>": 0.5}
    other.__name__ = "length"
    total, means = called(length, other, weights=[1.0, 0.5], columns={"gold": [2, 6]})
    assert means == {"length": 1.0, "length-2": 4.0} and total.tolist() == [2.0, 4.0]
    with pytest.raises(
        UserError, match="length needs the column 'gold' and the data have prompts, completions, completion_ids"
    ):
        called(other)
    total, _ = called(length, columns={"prompts": [1, 2], "completions": ["xx", "xxx"], "completion_ids": [0, 0]})
    assert total.tolist() == [1.0, 1.0]


def test_reward_functions():
    """None does not count; coroutines are awaited; what is no reward is named."""

    def length(completions, **_):
        return [float(len(c)) for c in completions]

    def sometimes(completions, bonus, **_):
        return [None if b is None else b for b in bonus]

    async def later(completions, **_):
        return [0.5] * len(completions)

    total, means = call_rewards(
        [length, sometimes, later], ["p"] * 2, ["ab", "c"], [[1], [2]], {"bonus": [None, 2.0]}, weights=[1.0, 2.0, 1.0]
    )
    assert total.tolist() == [2.5, 5.5] and means == {"length": 1.5, "sometimes": 2.0, "later": 0.5}

    async def notebook():
        return call_rewards([later], ["p"] * 2, ["ab", "c"], [[1], [2]])[0].tolist()

    with ThreadPoolExecutor(1) as thread:  # where no other test has left a loop
        assert thread.submit(asyncio.run, notebook()).result() == [0.5, 0.5]  # a loop is running already
    for function, words in (
        (lambda **_: [1.0], "returned 1 rewards for 2"), (lambda **_: [1.0, math.nan], "expected a finite number"),
        (lambda **_: [1.0, "x"], "returned 'x'"), (lambda **_: [1.0, None], "every one returned None"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            call_rewards([function], ["p"] * 2, ["a", "b"], [[1], [2]])
    with pytest.raises(UserError, match="0 reward functions"):
        call_rewards([], ["p"], ["a"], [[1]])

"""Tasks: what is chosen, said and counted. Models are random, but for one that recites and one with a class head."""

import functools
import logging
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.batch import ClassHead
from gptjax.config import ModelConfig
from gptjax.decoding.padding import LENGTHS
from gptjax.evaluation.evaluate import answer, classify, classify_by_head, continued, multiple_choice
from gptjax.inference.continuing import groups
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.class_heads import class_logits
from gptjax.nn.model import Transformer, init_params
from tests.tiny_run import LLAMA, bpe, characters, random_model, reciter

MODEL = random_model()
QUIZ = [
    {"context": "the quick", "choices": ["brown fox", "dog", "曹操"], "answer": 2},
    {"context": "", "choices": ["hello there", "lazy"], "answer": "lazy"},
    {"context": "A: hello there B: the", "choices": ["a", "over the lazy dog"], "answer": 0},
]


def test_multiple_choice_picks_the_most_probable_and_counts_by_length_too():
    """Log-likelihoods of delimiter and choice; divided by the characters of the choice, as lm_eval's acc_norm."""
    found = multiple_choice(MODEL, QUIZ)
    right = {"chosen": 0, "chosen_by_length": 0}
    for item, row in zip(QUIZ, found.items, strict=True):
        wanted = [one.log_prob for one in MODEL.loglikelihood([(item["context"], " " + c) for c in item["choices"]])]
        assert row["log_probs"] == wanted
        by_length = [nats / len(choice) for nats, choice in zip(wanted, item["choices"], strict=True)]
        assert row["chosen"] == np.argmax(wanted)
        assert row["chosen_by_length"] == np.argmax(by_length)
        right = {name: count + (row[name] == row["answer"]) for name, count in right.items()}
    assert [row["answer"] for row in found.items] == [2, 1, 0]
    assert any(row["chosen"] != row["chosen_by_length"] for row in found.items)
    assert found.metrics["accuracy"].value == pytest.approx(right["chosen"] / 3)
    assert found.metrics["accuracy by length"].value == pytest.approx(right["chosen_by_length"] / 3)
    assert found.counts == {"items": 3, "choices": 7}


def test_template_and_delimiter_change_what_is_read():
    """They are where the prompt and the choice come from."""
    [row] = multiple_choice(MODEL, [QUIZ[0] | {"q": "fox"}], template="{q}:", delimiter="\n").items
    assert row["log_probs"] == [
        one.log_prob for one in MODEL.loglikelihood([("fox:", "\n" + c) for c in row["choices"]])
    ]
    assert row["log_probs"] != multiple_choice(MODEL, QUIZ[:1]).items[0]["log_probs"]


def test_an_item_judged_alone_and_among_others_gets_the_same_numbers():
    """To the last bit, first or last, however many there are."""
    many = multiple_choice(MODEL, QUIZ * 50).items
    for number, item in enumerate(QUIZ):
        [alone] = multiple_choice(MODEL, [item]).items
        assert alone == many[number] == many[147 + number]


def test_classification_by_words_reports_accuracy_and_macro_f1():
    """Against a count by hand over whatever this model says."""
    items = [{"text": text, "label": label} for text, label in zip("abcdefgh", ["good", "bad"] * 4, strict=True)]
    labels = {"good": "brown", "bad": "lazy", "unused": "曹操 曹操 曹操"}
    found = classify(MODEL, items, labels, template="so {text}")
    chosen = [row["chosen"] for row in found.items]
    pairs = [(item["label"], said) for item, said in zip(items, chosen, strict=True)]
    assert found.metrics["accuracy"].value == np.mean([wanted == said for wanted, said in pairs])
    scores = []
    for label in {"good", "bad", *chosen}:
        right = sum(wanted == said == label for wanted, said in pairs)
        scores.append(2 * right / sum((wanted == label) + (said == label) for wanted, said in pairs))
    assert found.metrics["macro F1"].value == pytest.approx(np.mean(scores))
    for row in found.items:
        wanted = [
            one.log_prob for one in MODEL.loglikelihood([(f"so {row['text']}", " " + w) for w in labels.values()])
        ]
        assert row["log_probs"] == wanted
    with pytest.raises(ValueError, match="item 0: its label 'good' is none of 'bad', 'worse'"):
        classify(MODEL, items, ["bad", "worse"])


def headed() -> LanguageModel:
    heads = (
        ClassHead(name="pairs", classes=("x", "y"), pair=True),
        ClassHead(name="mood", classes=("good", "bad", "so")),
    )
    config = ModelConfig(T=32, vocabulary=bpe().size, class_heads=heads, **LLAMA)
    return LanguageModel(config, bpe(), nn.unbox(init_params(Transformer(config), jax.random.key(3))))


def test_classification_by_a_head_reads_it_at_the_end_of_the_whole_text():
    """Against one forward pass of BOS, text and EOS, all seen from both sides; too long a text loses its end."""
    model, tokenizer = headed(), bpe()
    texts = ["fox", "hello there the lazy dog", "the quick brown fox " * 9]
    found = classify_by_head(model, [{"text": text, "label": "bad"} for text in texts], "mood")
    for text, row in zip(texts, found.items, strict=True):
        tokens_BT = jnp.array([[tokenizer.bos, *tokenizer.encode(text)[:30], tokenizer.eos]])
        one_BT = jnp.ones_like(tokens_BT)
        hidden_BTD, _ = jax.jit(Transformer(model.config).apply)(
            {"params": model.params}, tokens_BT, one_BT, jnp.arange(tokens_BT.shape[1])[None], one_BT == 1
        )
        wanted = jax.nn.log_softmax(class_logits(model.params, model.config, hidden_BTD[:, -1:], 1))[0, 0]
        np.testing.assert_allclose(row["log_probs"], wanted, atol=1e-5)
        assert row["chosen"] == ("good", "bad", "so")[int(np.argmax(wanted))]
    assert found.counts == {"items": 3, "classes": 3, "cut": 1}
    assert [row.get("cut", False) for row in found.items] == [False, False, True]
    for ids, said in (([], "text 1 has 0 tokens"), ([1] * 33, "text 1 has 33 tokens; .* from 1 to 32")):
        with pytest.raises(ValueError, match=said):
            model.class_log_probs([[1, 5], ids], 1)
    for head in ("moods", "pairs"):
        with pytest.raises(ValueError, match=f"head='{head}'"):
            classify_by_head(model, [{"text": "a", "label": "bad"}], head)


def test_answers_are_what_the_model_says_up_to_a_stop():
    """A model that recites a line: to a prompt of n tokens it says what follows the n-th."""
    tokenizer = characters()
    text = "Q: who? the fox\nand more"
    ids = tokenizer.encode(text)
    model = reciter(ids, tokenizer)
    question = {"question": text[:7], "answers": ["A dog", "Fox."]}
    found = answer(model, [question, question | {"answers": ["the brown fox"]}], tokens=20)
    assert [row["said"] for row in found.items] == ["the fox"] * 2
    assert found.metrics["exact match"].value == 0.5
    assert found.items[1]["f1"] == pytest.approx(2 / 3)
    assert found.metrics["F1"].value == pytest.approx((1 + 2 / 3) / 2)
    [longer] = answer(model, [question], tokens=20, stop=("more",)).items
    assert longer["said"] == "the fox\nand"


def test_continuations_come_in_order_whatever_the_batches():
    """More prompts than a batch holds, of all lengths; one of them exceeds the context."""
    prompts = [[1, *range(30, 30 + length)] for length in (3, 40, 12, 70, 1, 9) * 3]
    found = continued(MODEL, prompts, tokens=4)
    assert found[:6] == found[6:12] == found[12:]
    for ids, text in zip(prompts[:6], found, strict=False):
        assert continued(MODEL, [ids], tokens=4) == [text]
    assert found[3] == continued(MODEL, [prompts[3][-60:]], tokens=4)[0]
    assert len(set(found[:6])) > 3


@pytest.mark.parametrize("tokens", [50, 64, 1000])
def test_an_answer_takes_at_most_half_of_the_context_from_its_prompt(tokens):
    """And is told to be short; a prompt that leaves more room gives more; half of the context is always to be had."""
    short, long = [1, *range(30, 50)], [1, *range(30, 100)]
    count = 1 if tokens < 54 else 2
    with pytest.warns(
        UserWarning, match=rf"^{count} of 2 answers have no room for {tokens} tokens in the context of 64"
    ):
        found = continued(MODEL, [short[:10], long], tokens=tokens)
    for ids, text in zip((short[:10], long[-32:]), found, strict=True):
        assert text == MODEL.generate(ids, temperature=0, tokens=tokens)[0][0].text
    assert continued(MODEL, [long], tokens=32) == [MODEL.generate(long[-32:], temperature=0, tokens=32)[0][0].text]


def test_a_choice_that_cannot_be_scored_is_named_before_anything_is_read():
    """By its item and its number."""
    quiz = [QUIZ[0], QUIZ[0] | {"choices": ["a", "b", ""]}]
    with pytest.raises(ValueError, match="item 1, choice 2: the continuation is empty"):
        multiple_choice(MODEL, quiz, delimiter="", progress=pytest.fail)


def test_labels_may_be_numbers_and_one_text_is_no_list_of_them():
    """Of items and of the call alike; the same holds for what ends an answer."""
    items = [{"text": "the quick", "label": 1}, {"text": "dog", "label": "0"}]
    assert classify(MODEL, items, [0, 1]).items == classify(MODEL, items, ["0", "1"]).items
    with pytest.raises(ValueError, match="labels='01': is one text"):
        classify(MODEL, items, "01")
    with pytest.raises(ValueError, match="labels: '0' is given twice"):
        classify(MODEL, items, ["0", 0])
    with pytest.raises(ValueError, match="stop='END': is one text"):
        answer(MODEL, [{"question": "a", "answers": ["b"]}], stop="END")


def test_uneven_prompts_need_few_sizes_of_rows():
    """Up to a context of 65,536 tokens: at most LENGTHS of them; each prompt once, and with room for its answer."""
    chance = random.Random(0)
    lengths = [int(2 ** chance.uniform(0, 15.8)) for _ in range(200)]
    found = groups(lengths, 8, 65_536)
    assert len(found) == LENGTHS
    assert sorted(number for _, numbers in found for number in numbers) == list(range(200))
    for room, numbers in found:
        assert all(lengths[number] + 8 <= room for number in numbers)


@pytest.mark.slow
def test_rows_of_one_size_are_read_and_continued_by_one_program_each(caplog):
    """Lengths that are padded to three powers of two; without a common size, each would be a program."""
    model = random_model("llama", T=56)  # a shape of this test's own, so that nothing is compiled yet
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        found = continued(model, [[1] * length for length in (3, 17, 35, 9)] * 16, tokens=20)
    programs = re.findall(r"Finished XLA compilation of jit\((read|step)\)", caplog.text)
    assert sorted(programs) == ["read", "read", "step"]
    assert found[:4] == [continued(model, [[1] * length], tokens=20)[0] for length in (3, 17, 35, 9)]


@pytest.mark.parametrize("task", [multiple_choice, answer, functools.partial(classify, labels=["a"])])
def test_no_items_are_refused(task):
    with pytest.raises(ValueError, match="no items to evaluate"):
        task(MODEL, [])

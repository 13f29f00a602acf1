"""gptjax.tokenizer: any text comes back exactly, and nothing that a person types is special."""

import pickle
import random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptjax.tokenizer import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    Tokenizer,
    dialogue_text,
    stream_text,
    train_bpe,
    train_characters,
)  # fmt: skip

TEXTS = ["the cat sat on the mat, and that was that\n" * 20, "第一回 宴桃園豪傑三結義 " * 20, "déjà vu " * 20]
NASTY = [
    "", " ", "  ", "\n\n", "\r\n", "\t", "\x00", "\ufeff", "\ufffd", "a\ufffd", "\ufffdb\ufffd", "e\u0301é", "ﬁ", "İı",
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u202eabc", "\u2028\u0085", "\U0010ffff", " leading", "trailing ", "a  b   c",
    "<0x41>", "<0xE4>", "Ġ", "▁", "don't 1234", "<|eos|>", "<|bos|>x<|pad|>", "<|eos|", "\ud7ff\ue000",
]  # fmt: skip


@pytest.fixture(scope="module", params=[train_bpe, train_characters], ids=["bpe", "characters"])
def tokenizer(request):
    return request.param(TEXTS, 500)


def random_texts(count=300):
    """Code points of all planes, surrogates left out, mixed with what the tokenizers know."""
    draw = random.Random(0)
    legal = [
        range(0x20, 0x7F),
        range(0x80, 0x800),
        range(0x800, 0xD800),
        range(0xE000, 0x10000),
        range(0x10000, 0x110000),
    ]
    return ["".join(chr(draw.choice(draw.choice(legal))) for _ in range(draw.randrange(40))) for _ in range(count)]


def test_any_text_comes_back_exactly(tokenizer):
    """Encoding then decoding is the identity on nasty and on random Unicode, alone and in a batch."""
    texts = [*NASTY, *TEXTS, *random_texts()]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_known_text_is_shorter_than_its_bytes(tokenizer):
    """The vocabulary that was learnt is used: the round trip is not one by bytes alone."""
    assert all(len(tokenizer.encode(text)) < 0.95 * len(text.encode()) for text in TEXTS[1:])


def test_special_tokens_have_fixed_ids_and_leave_no_text(tokenizer):
    """PAD, BOS and EOS are 0, 1 and 2; they vanish in decoding and show their names to a person."""
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    assert tokenizer.decode([1, *tokenizer.encode("the cat"), 2, 0]) == "the cat"
    assert [tokenizer.token(id) for id in range(3)] == [PAD, BOS, EOS]


def test_a_special_token_that_a_person_types_is_plain_text(tokenizer, tmp_path):
    """No text yields a special id: not alone, not in a batch, not after loading, and not in another process."""
    tokenizer.save(tmp_path / "tokenizer.json")
    for ours in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        for special in SPECIAL_TOKENS:
            for ids in (ours.encode(f"a{special}b"), *ours.encode_batch([special])):
                assert min(ids) > 2
        assert ours.decode(ours.encode(EOS)) == EOS


def test_training_text_cannot_teach_a_special_token():
    """Text full of `<|eos|>` leaves it plain text all the same."""
    for train in (train_bpe, train_characters):
        assert min(train(["<|eos|><|bos|> " * 100], 400).encode("x<|eos|>")) > 2


def test_a_saved_tokenizer_is_the_same_one(tokenizer, tmp_path):
    """Same fingerprint and same ids after save and load; a tokenizer of other text has another fingerprint."""
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.size == tokenizer.size
    assert [loaded.encode(text) for text in NASTY] == [tokenizer.encode(text) for text in NASTY]
    assert train_bpe(["other words"], 300).fingerprint != tokenizer.fingerprint


def test_training_twice_gives_the_same_tokenizer():
    """Same text, same fingerprint."""
    for train in (train_bpe, train_characters):
        assert train(TEXTS, 500).fingerprint == train(iter(TEXTS), 500).fingerprint


def test_characters_spell_the_unknown_in_bytes():
    """A known character is one token, an unknown one its UTF-8 bytes."""
    ours = train_characters(["abc"], 300)
    assert [len(ours.encode(text)) for text in ("a", "abc", "é", "界", "👍")] == [1, 3, 2, 3, 4]
    assert ours.size == 3 + 256 + 3


def test_too_few_ids_for_the_characters_is_an_error_with_the_number_needed():
    """262 are needed for three characters, and 262 suffice."""
    with pytest.raises(ValueError, match=r"vocabulary=261.* 3 different characters.*need 262"):
        train_characters(["abc"], 261)
    assert train_characters(["abc"], 262).size == 262


def assert_streams(tokenizer, ids, pieces):
    """The pieces are the text of the ids, and none ends inside a character."""
    text = tokenizer.decode(ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert all(pieces)


def test_streaming_never_cuts_a_character(tokenizer):
    """Text arrives in whole characters, as soon as they are whole, and ends where the text ends."""
    for text in [*NASTY, *TEXTS, *random_texts(50)]:
        ids = tokenizer.encode(text)
        assert_streams(tokenizer, ids, list(stream_text(tokenizer, ids)))
    assert list(stream_text(tokenizer, tokenizer.encode("xyz"))) == ["x", "y", "z"]


def test_streaming_survives_any_ids():
    """Ids at random, as an untrained model draws them, stream to what they decode to, broken characters and all."""
    draw, tokenizer = random.Random(0), train_bpe(TEXTS, 500)
    for _ in range(50):
        ids = [draw.randrange(tokenizer.size) for _ in range(30)]
        assert "".join(stream_text(tokenizer, ids)) == tokenizer.decode(ids)


def test_streaming_never_cuts_where_tokens_straddle_characters():
    """Twenty é, of which every token but the first ends one and begins the next: each arrives once it is whole."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate([*SPECIAL_TOKENS, *alphabet, "©Ã"])}
    rules = tokenizers.Tokenizer(models.BPE(vocabulary, [("©", "Ã")]))
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    ours = Tokenizer(rules)
    ids = ours.encode("é" * 20)
    assert ids.count(vocabulary["©Ã"]) == 19
    assert list(stream_text(ours, ids)) == ["é"] * 20


def test_an_id_beyond_the_vocabulary_is_named(tokenizer):
    """With the size that it passes."""
    with pytest.raises(ValueError, match=rf"99999 .* {tokenizer.size}"):
        tokenizer.token(99_999)


def test_a_file_that_is_no_tokenizer_of_ours_is_named(tmp_path):
    """Broken, or without our special tokens; a file that is not there stays FileNotFoundError."""
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(path)
    for content in ("{", tokenizers.Tokenizer(models.BPE()).to_str()):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
            Tokenizer.load(path)


def test_a_conversation_is_one_line_a_turn():
    """Speakers alternate, and no turn can forge another by a line break."""
    assert dialogue_text(["hi", "well\nB: no", " so  be it "]) == "A: hi\nB: well B: no\nA: so be it\n"

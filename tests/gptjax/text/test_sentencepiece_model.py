"""gptjax.text.sentencepiece_model against the SentencePiece library, on models that it trains here."""

import io
import random

import pytest
import sentencepiece

from gptjax.text.sentencepiece_model import convert
from gptjax.text.tokenizer import StreamDecoder, Tokenizer
from tests.tiny_text import sentences

TEXTS = [*sentences(150), *["déjà vu, ﬁn; 第一回 宴桃園豪傑三結義。 ①② Ａｂ  1,234.50 don't -- <b>"] * 9]
NASTY = [
    "", " ", "   ", "\n", "a\n\nb\t c", " leading", "trailing  ", "a  b   c", "▁", "a▁b", "b▁", "the▁ ", "\u3000wide",
    "ﬁ ① Ａｂ ½ ㎏", "e\u0301é", "İı", "\x00\x07", "\u200b", "\ufeffx", "👩‍👩‍👧 🏴", "\U0010ffff",
    "<0x41> <unk> <s>the</s>", "aaaaaaaaaaa", "-------", "THE QUICK", "第一回", "thequickbrownfox",
    "the <user> and<user>", "<user>",
]  # fmt: skip
KINDS = {
    "defaults": {},
    "byte fallback": {"byte_fallback": True},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True},
    "no prefix": {
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "user_defined_symbols": ["<user>"],
    },
    "case folded": {"normalization_rule_name": "nfkc_cf", "pad_id": 3},
    "across words": {"split_by_whitespace": False, "max_sentencepiece_length": 30},
}


@pytest.fixture(scope="module", params=[(model, kind) for model in ("unigram", "bpe") for kind in KINDS], ids=" ".join)
def pair(request):
    """A model as SentencePiece reads it and as we do."""
    kind, name = request.param
    return trained(model_type=kind, **KINDS[name])


def trained(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=420, hard_vocab_limit=False, num_threads=1,
        minloglevel=3, **settings,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), Tokenizer(convert(model.getvalue()))


def texts():
    """Nasty ones, known ones, known ones cut and mixed up, and code points of everywhere."""
    draw = random.Random(0)
    known = [character for text in TEXTS for character in text]
    mixed = ["".join(draw.choices(known, k=draw.randrange(40))) for _ in range(200)]
    anywhere = ["".join(chr(draw.randrange(0x20, 0xD800)) for _ in range(draw.randrange(9))) for _ in range(200)]
    return [*NASTY, *TEXTS[:40], *TEXTS[-1:], *mixed, *anywhere]


def test_text_gets_the_ids_that_sentencepiece_gives_it(pair):
    """On every text, whatever the normalisation, and the same alone and in a batch."""
    theirs, ours = pair
    assert ours.size == theirs.get_piece_size()
    assert [ours.encode(text) for text in texts()] == [theirs.encode(text) for text in texts()]
    assert ours.encode_batch(texts()) == [ours.encode(text) for text in texts()]


def test_ids_get_the_text_that_sentencepiece_gives_them(pair):
    """But for characters unknown to the model, for which it writes a sign and we nothing."""
    theirs, ours = pair
    for text in texts():
        ids = theirs.encode(text)
        if "▁" not in text:  # SentencePiece takes one that begins a text away
            assert ours.decode(ids) == theirs.decode(ids).replace(" \u2047 ", "")


def test_the_bytes_of_pieces_add_up_to_those_of_the_normalised_text(pair):
    """And one more for the space in front, which `continuation` keeps and `decode` takes away."""
    theirs, ours = pair
    lengths = ours.byte_lengths()
    for text in TEXTS:
        ids = ours.encode(text)
        if theirs.unk_id() not in ids:
            assert sum(lengths[id] for id in ids) == len(ours.continuation(ids).encode())
            assert ours.continuation(ids) in (ours.decode(ids), " " + ours.decode(ids))


def test_words_that_are_streamed_keep_their_spaces():
    """A piece such as ▁the continues a text with a space; at the beginning of a text it has none."""
    _, ours = trained(byte_fallback=True)
    ids = ours.encode("the lazy dog 界")
    decoder = StreamDecoder(ours)
    pieces = [*map(decoder.push, ids), decoder.rest()]
    assert "".join(pieces) == " the lazy dog 界"
    assert ours.decode(ids) == "the lazy dog 界"


def test_control_pieces_are_special_and_never_come_of_text():
    """BOS, EOS and PAD are found by their names; typed, they are letters; so too after saving as tokenizer.json."""
    theirs, ours = trained(pad_id=3)
    assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_id(), theirs.eos_id(), theirs.pad_id()) == (1, 2, 3)
    for typed in ("<s>", "x</s>y", "<pad>", "the<unk>"):
        assert not {1, 2, 3} & set(ours.encode(typed))
        assert ours.decode([1, *ours.encode("the dog"), 2]) == "the dog"


def test_a_model_file_is_loaded_and_saved_as_a_tokenizer_json(tmp_path):
    """Whatever the name of the file; what is saved encodes alike."""
    theirs, ours = trained()
    (tmp_path / "tokenizer.model.v1").write_bytes(theirs.serialized_model_proto())
    loaded = Tokenizer.load(tmp_path / "tokenizer.model.v1")
    loaded.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == again.fingerprint == ours.fingerprint
    assert [again.encode(text) for text in NASTY] == [theirs.encode(text) for text in NASTY]


def test_models_that_are_not_read_are_refused_with_their_kind(tmp_path):
    """Words, characters, spaces behind words; and what is no model at all."""
    for settings, said in (
        ({"model_type": "char"}, "model_type=4"),
        ({"model_type": "word"}, "model_type=3"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix=True"),
    ):
        with pytest.raises(ValueError, match=said):
            trained(**settings)
    for content in (b"", b"no model\n", b"IQ== 0\nIg== 1\n"):
        (tmp_path / "file.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.model: not a usable tokenizer\.json or SentencePiece model"):
            Tokenizer.load(tmp_path / "file.model")

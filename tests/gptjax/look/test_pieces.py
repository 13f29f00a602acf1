"""gptjax.look.pieces: every character of a text is seen once, wherever tokens cut it."""

from gptjax.look.pieces import pieces, token_label
from gptjax.text.tokenizer import byte_tokenizer, train_bpe
from tests.tiny_run import bpe

BYTES = byte_tokenizer()


def shown(tokenizer, text):
    return [(piece.text, piece.parts) for piece in pieces(tokenizer, tokenizer.encode(text))]


def test_bytes_of_a_character_are_its_parts():
    """Of one, three and four bytes, each numbered."""
    fox = [("", (("🦊", number, 4),)) for number in (1, 2, 3, 4)]
    assert shown(BYTES, "a狐🦊") == [("a", ()), *[("", (("狐", number, 3),)) for number in (1, 2, 3)], *fox]


def test_every_character_is_whole_or_has_all_its_parts():
    """By a vocabulary that was learnt on other text, with tokens that end in the middle of a character."""
    tokenizer = train_bpe(["狐狸狐狸 曹操 ab狗"] * 9, 274)
    text = "ab 狐狸跑过山头 🦊👩‍👩‍👧! 狗"
    found = pieces(tokenizer, tokenizer.encode(text))
    whole = "".join("".join(c for c, n, of in piece.parts if n == of) + piece.text for piece in found)
    assert whole == text
    assert any(piece.parts for piece in found)
    assert any(len(piece.text) > 1 for piece in found)


def test_special_tokens_show_their_names_and_part_no_character():
    found = pieces(bpe(), [bpe().bos, *bpe().encode("fox")])
    assert (found[0].text, found[0].special) == ("<|bos|>", True)
    assert not found[1].special


def test_a_byte_of_no_character_shows_its_number():
    """In a text, and alone in a table."""
    broken = [BYTES.encode("a")[0], *BYTES.encode("狐")[:2], BYTES.encode("b")[0]]
    assert [piece.text for piece in pieces(BYTES, broken)] == ["a", "\\xe7", "\\x8b", "b"]
    assert token_label(BYTES, broken[1]) == "\\xe7"
    assert token_label(BYTES, BYTES.eos) == "<|eos|>"
    assert token_label(bpe(), bpe().encode("fox")[0]) == bpe().token(bpe().encode("fox")[0])

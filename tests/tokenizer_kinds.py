"""Small tokenizers of every kind: the families of the golden files, and models and decoders that none of those has."""

import json
from collections.abc import Callable
from pathlib import Path

from make_golden_tokenizer import FAMILIES
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = Path(__file__).parent

SCRIPTS = {
    "Tibetan": "བོད་སྐད་ཡིག་ནི་བོད་མིའི་སྐད་ཡིག་ཡིན།",
    "Hindi": "हिन्दी विश्व की एक प्रमुख भाषा है। क्ष्म्य",
    "Thai": "สวัสดีครับ ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "Korean": "안녕하세요 한국어로 씁니다 ㄱㄴㄷ",
    "long CJK": "a日本語日本語日本語c" + "漢字" * 40 + "今天天气很好",
    "hearts": "❤️❤️❤️ I ❤️ you 💚💙",
    "joined emoji": "👩‍👩‍👧‍👦👍🏽 🏳️‍🌈🇩🇪🇫🇷 🙂🙂🙂",
    "combining marks": "e\u0301a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302a\u0363lgo q\u0323\u0307",
    "Arabic and Hebrew": "العربية עברית ١٢٣",
    "control characters": "\x00\x01\x1b[31m\x7f\r\n\ttab\u2028\ufeff",
    "spaces": "  two  spaces,   three ",
    "code": "def f(x):\n\treturn x ** 2  # ok\n",
    "a replacement character": "\ufffd kept \ufffd\ufffd",
    "nothing": "",
}


def bytes_only() -> Tokenizer:
    """SentencePiece's pieces where every character but `a` and the space is spelled in bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def characters() -> list[str]:
    return sorted(set("".join(SCRIPTS.values())) - {" "})


def unigram() -> Tokenizer:
    """Unigram with Metaspace, as T5, ALBERT and XLNet have it."""
    pieces = [
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in characters()),
        ("▁a", -1.0),
        ("日本", -1.0),
        ("▁I", -1.0),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    """WordPiece, as BERT has it."""
    pieces = ["[UNK]", *characters(), *(f"##{c}" for c in characters()), "##n't", "'s", "I", "##日本"]
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return tokenizer


def word_ends() -> Tokenizer:
    """BPE with marked ends of words, as the first GPT and CLIP have it."""
    pieces = ["<unk>", *characters(), *(f"{c}</w>" for c in characters())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    return tokenizer


def no_decoder() -> Tokenizer:
    """A vocabulary of words that nothing joins but spaces."""
    words = ["[UNK]", *{word for text in SCRIPTS.values() for word in text.split()}]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def odd_sequence() -> Tokenizer:
    """Steps that no family has: a regular expression, and a cut at the front of every token."""
    tokenizer = bytes_only()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(Regex("▁+"), " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip("a", 2, 0)]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = FAMILIES | {
    make.__name__: make for make in (bytes_only, unigram, word_piece, word_ends, no_decoder, odd_sequence)
}


def as_file(name: str, folder: Path) -> Path:
    """tokenizer.json of a kind; the golden ones as they are stored."""
    path, stored = folder / "tokenizer.json", HERE / "golden" / "tokenizer" / f"{name}.json"
    if stored.is_file():
        data = json.loads(stored.read_text(encoding="utf-8"))["tokenizer"]
        path.write_text(json.dumps(data), encoding="utf-8")
    else:
        KINDS[name]().save(str(path))
    return path

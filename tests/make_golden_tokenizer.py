"""Write tests/golden/tokenizer/FAMILY.json: a small tokenizer of each family and what `tokenizers` makes of hard text.

The vocabularies are trained here, on the opening of Jane Austen's Persuasion and on the hard texts themselves; what is
a family's own is its pipeline. Swift repeats the files (`TokenizerTests.swift`), `test_swift_tokenizer.py` checks that
they are current and compares on far more text.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgesink.runtime.tokenizer import Detokenizer
from edgesink.runtime.tokenizer import Tokenizer as OurTokenizer

HERE = Path(__file__).parent
FOLDER = HERE / "golden" / "tokenizer"
VOCAB = 900

HARD = [
    "",
    " ",
    "   \n\n\t  \r\n x",
    "Hello, world! It's 2026; they'll pay $1,234.56 — won't they?",
    "I'M HERE, WE'VE GONE, he'S, it\u2019s, '\u017f, 'LL",
    "naïve café — cafe\u0301 A\u030angstro\u0308m \u1e9b\u0323 q\u0323\u0307",
    "😀😃 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 e\u200dx",
    "今天天气很好。東京タワー、서울 한글 ㄱㄴ",
    "Ελληνικά кириллица עברית العربية ١٢٣ हिन्दी தமிழ்",
    "def f(x):\n    return [x ** 2 for x in range(10)]  # ok\n\tif x >= 3: pass\n",
    "1234567890 12 345 ½ Ⅷ ² ٣ 3.14159e-10",
    "a" * 70 + " " * 40 + "b",
    "\u00a0nbsp\u2003em\u3000ideographic\u2028line\x85next\x0bvt",
    "<|im_start|>user\nhi<|im_end|>\n<s>a</s> <pad>\n\n\n▁already▁here",
    "x <mask> y<mask>z  <word> sword> a<word>b <word>",
    "\x00\x01\x7f\ufeff\ufffd\U0010ffff\ue000 \U000e0100",
    "https://example.org/a_b?c=d&e=%20#frag 3x+4=5·6 \\n \\u00e9",
    "\n\n\n\nfour\n\n\nthree\n\ntwo \n one",
]

SCRIPTS = {  # what is streamed token by token
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


def english() -> list[str]:
    return (HERE / "data" / "persuasion_opening.txt").read_text(encoding="utf-8").splitlines()


def _trained(tokenizer: Tokenizer, special: list[str], lines: list[str], **options: object) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _byte_level(*before: pre_tokenizers.PreTokenizer, special: list[str], normalizer: object = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    use_regex = not any(isinstance(step, pre_tokenizers.Split) for step in before)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    lines = english() + HARD * 2
    return _trained(tokenizer, special, lines, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _pattern(digits: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(
        Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
            + digits
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "isolated",
    )


def gpt2() -> Tokenizer:
    tokenizer = _byte_level(special=["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("<word>", single_word=True)])
    return tokenizer


def smollm2() -> Tokenizer:
    return _byte_level(
        pre_tokenizers.Digits(individual_digits=True), special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )


def llama3() -> Tokenizer:
    tokenizer = _byte_level(_pattern(r"\p{N}{1,3}"), special=["<|begin_of_text|>", "<|eot_id|>"])
    tokenizer.model.ignore_merges = True
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def qwen2() -> Tokenizer:
    return _byte_level(
        _pattern(r"\p{N}"), special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizer=normalizers.NFC()
    )


def o200k() -> Tokenizer:
    """The pattern of newer byte-level families, for the regular expressions that no other family uses."""
    upper, lower = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    suffix = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    words = rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+{suffix}|[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*{suffix}"
    rest = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    return _byte_level(pre_tokenizers.Split(Regex(words + rest), "isolated"), special=["<|endoftext|>"])


def _bytes() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _sentencepiece(normalizer: object, pre_tokenizer: object, decoder: object, special: list[str]) -> Tokenizer:
    """A model trained on words, then run on whole texts, its unknown characters spelled in bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    _trained(tokenizer, [*special, *_bytes()], english() + HARD[3:6])
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in _bytes()]
    data["model"] |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    data["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def mistral() -> Tokenizer:
    tokenizer = _sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
        ["<unk>", "<s>", "</s>"],
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def mistral_v3() -> Tokenizer:
    return _sentencepiece(
        None,
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
        ["<unk>", "<s>", "</s>"],
    )


def gemma() -> Tokenizer:
    tokenizer = _sentencepiece(
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        ["<pad>", "<eos>", "<bos>", "<unk>"],
    )
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 5)])
    tokenizer.add_tokens([AddedToken("▁" * n, normalized=False) for n in range(2, 5)])
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: make for make in (gpt2, smollm2, llama3, qwen2, o200k, mistral, mistral_v3, gemma)
}


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Short texts of characters from everywhere in Unicode, mixed with what tokenizers trip over."""
    draw = random.Random(seed)
    blocks = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x6FF), (0x900, 0xDFF), (0x1E00, 0x206F),
              (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFD),
              (0x10000, 0x1FAFF), (0x20000, 0x3FFFF), (0xE0000, 0x10FFFF), (0, 0xD7FF)]  # fmt: skip
    bits = [*HARD[1:], " ", "  ", "\n", "'s", "'LL", "<|im_end|>", "▁", "12", "e\u0301", "\u200d"]
    for _ in range(count):
        pieces = []
        for _ in range(draw.randint(1, 12)):
            if draw.random() < 0.4:
                pieces.append(draw.choice(bits))
            else:
                low, high = draw.choice(blocks)
                pieces.append("".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 4))))
        yield "".join(pieces)


def golden(name: str) -> dict:
    tokenizer = FAMILIES[name]()
    texts = [*HARD, *SCRIPTS.values(), *random_texts(20, seed=1)]
    return {
        "about": "made by make_golden_tokenizer.py",
        "tokenizer": json.loads(tokenizer.to_str()),
        "encodings": [
            {
                "text": text,
                "ids": (ids := tokenizer.encode(text, add_special_tokens=False).ids),
                "special": tokenizer.encode(text).ids,
                "decoded": tokenizer.decode(ids),
            }
            for text in texts
        ],
        "streams": [  # what Python shows with each token, and at the end
            {"ids": ids, "pieces": streamed(tokenizer, ids)}
            for ids in (tokenizer.encode(text, add_special_tokens=False).ids for text in SCRIPTS.values())
        ],
        "decodings": [  # ids in no order that text would give: broken characters, special tokens in the middle
            {"ids": ids, "pieces": streamed(tokenizer, ids), "with_special": tokenizer.decode(ids, False)}
            for ids in random_ids(tokenizer.get_vocab_size(), 20)
        ],
    }


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(OurTokenizer(tokenizer))
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def random_ids(vocab: int, count: int, seed: int = 2) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(vocab) for _ in range(draw.randint(1, 20))] for _ in range(count)]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in FAMILIES:
        (FOLDER / f"{name}.json").write_text(json.dumps(golden(name), ensure_ascii=False) + "\n", encoding="utf-8")

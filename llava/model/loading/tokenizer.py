"""Loads a checkpoint's tokenizer so that its ids equal those that the checkpoint was trained or first used with.

Two tokenizers of 2023 read the same `tokenizer.model`, and they disagree around special tokens and double spaces:

* `sentencepiece`: the slow tokenizer that training used, in v0 and in everything later. It drops the whitespace beside
  `<im_start>`, `<im_patch>`, `<im_end>`.
* `tokenizers`: the fast tokenizer that the v0 evaluators and the v0 worker used. It keeps that whitespace, never merges
  two spaces, and starts every text with id 1, whatever `bos_token` says.

Current transformers builds a third one by default. `load_tokenizer` pins one of the two. When the tokenizer is saved,
the choice is written to `tokenizer_config.json` (key `llava_tokenization`), so that a checkpoint is used as it was
trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN, DEFAULT_PAD_TOKEN
from llava.errors import CheckpointError, TokenizerNotFound
from llava.model.weights.reader import read_model_json
from llava.templates.jinja_text import writes_first_token
from llava.templates.of_folder import chat_template_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Tokenization = Literal["sentencepiece", "tokenizers"]

CONFIG_KEY = "llava_tokenization"
BEGINS_WITH_KEY = "llava_begins_with"
"""Key of an export's tokenizer_config.json: the token that prompts begin with. Its chat template writes the token, and
its tokenizer does not add it."""
IMAGE_TOKENS = (DEFAULT_IMAGE_PATCH_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN)
_FILES = ("tokenizer.model", "tokenizer.json")
# Conversions of spring 2023 spell it "LLaMATokenizer".
_LLAMA_CLASSES = {"LlamaTokenizer", "LlamaTokenizerFast", "LLaMATokenizer", "CodeLlamaTokenizer"}


def load_tokenizer(
    path: str | Path,
    *,
    tokenization: Tokenization | None = None,
    padding_side: str = "right",
    model_max_length: int | None = None,
) -> PreTrainedTokenizerFast:
    """Loads the tokenizer of a model folder.

    Args:
        path: a local model folder.
        tokenization: which tokenizer of 2023 to reproduce. None takes the folder's own setting. Without one, a v0
            folder is read as its evaluators read it (`tokenizers`), any other as training did (`sentencepiece`).
        padding_side: "left" or "right".
        model_max_length: number of tokens that replaces the folder's own value.

    Raises:
        TokenizerNotFound: no tokenizer file in the folder.
        CheckpointError: tokenizer files that cannot be read.
    """
    folder = Path(path)
    if not any((folder / name).is_file() for name in _FILES):
        raise TokenizerNotFound(folder, _FILES)
    settings = read_model_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    extra: dict[str, Any] = {"padding_side": padding_side}
    if model_max_length is not None:
        extra["model_max_length"] = model_max_length
    try:
        if settings.get("tokenizer_class", "LlamaTokenizer") not in _LLAMA_CLASSES:
            from transformers import AutoTokenizer

            tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder, **extra))
            if BEGINS_WITH_KEY in settings:
                with_first_token(tokenizer, settings[BEGINS_WITH_KEY])
            else:
                _begin_as_the_chat_template(tokenizer, folder)
            return tokenizer
        from transformers.models.llama.tokenization_llama import LlamaTokenizer

        tokenizer = LlamaTokenizer.from_pretrained(
            folder, legacy=settings.get("legacy", True) is not False, add_bos_token=True, **extra
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer files cannot be read ({error}). Fetch them again.") from error

    has_patches = DEFAULT_IMAGE_PATCH_TOKEN in tokenizer.get_added_vocab()
    tokenization = tokenization or settings.get(CONFIG_KEY) or ("tokenizers" if has_patches else "sentencepiece")
    _mark_special(tokenizer, tokenization)
    if tokenization == "tokenizers":
        _use_fast_rules(tokenizer)
    tokenizer.init_kwargs[CONFIG_KEY] = tokenization
    return tokenizer


def add_special_tokens(tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> int:
    """Adds image tokens with the rules of the tokenizer in use; returns the number of new ones."""
    from tokenizers import AddedToken

    strip = tokenizer.init_kwargs.get(CONFIG_KEY, "sentencepiece") == "sentencepiece"
    return tokenizer.add_tokens(
        [AddedToken(token, lstrip=strip, rstrip=strip, normalized=False, special=True) for token in tokens],
        special_tokens=True,
    )


def with_first_token(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    """Makes a tokenizer begin every text with a token."""
    from tokenizers.processors import TemplateProcessing

    special = [(token, tokenizer.convert_tokens_to_ids(token))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=special
    )


def _begin_as_the_chat_template(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Makes a tokenizer begin with the token that the folder's chat template begins with, which this package leaves to
    the tokenizer."""
    text = chat_template_text(folder)
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    if text is not None and tokenizer.bos_token is not None and not begins and writes_first_token(text):
        with_first_token(tokenizer, str(tokenizer.bos_token))


def without_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Makes a tokenizer add no special token by itself."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


def _mark_special(tokenizer: PreTrainedTokenizerFast, tokenization: Tokenization) -> None:
    """Marks image tokens as special, because old `added_tokens.json` files do not say so, nor how to treat whitespace
    beside them."""
    tokenizer.init_kwargs[CONFIG_KEY] = tokenization
    known = tokenizer.get_added_vocab()
    present = [token for token in (DEFAULT_PAD_TOKEN, *IMAGE_TOKENS) if token in known]
    if present:
        add_special_tokens(tokenizer, present)


def _use_fast_rules(tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    # Each piece of text between special tokens gets its own leading space mark, and whitespace is never stripped.
    spec["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    spec["pre_tokenizer"] = None
    spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if list(pair) != ["▁", "▁"]]
    first = tokenizer.convert_ids_to_tokens(1)
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}},
        ],
        "special_tokens": {first: {"id": first, "ids": [1], "tokens": [first]}},
    }
    backend: Tokenizer = Tokenizer.from_str(json.dumps(spec))
    # transformers has no public way to replace the compiled rules of a loaded tokenizer.
    tokenizer._tokenizer = backend

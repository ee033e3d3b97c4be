"""Stops generation at keywords, for programs that pass `stopping_criteria` to `generate` themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria


class KeywordsStoppingCriteria(StoppingCriteria):
    """Tells for each row whether its generated text contains one of the keywords.

    Only generated text counts, from its first token on; the prompt may contain keywords. This works whether `generate`
    returns prompt and answer or, as with `inputs_embeds`, the answer alone.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: Any, input_ids: torch.Tensor):
        """
        Args:
            keywords: texts that end an answer; special tokens such as `</s>` are found too.
            tokenizer: the model's tokenizer.
            input_ids: the prompt, [rows, length].
        """
        self.keywords = [keyword for keyword in keywords if keyword]
        self.tokenizer = tokenizer
        self._prompt = input_ids
        self._keyword_ids = [_ids_without_bos(tokenizer, keyword) for keyword in self.keywords]
        # A token is at least one byte of text, so a keyword spans at most that many tokens; two more tokens keep the
        # text from losing its leading space.
        self._window = max((len(keyword.encode()) for keyword in self.keywords), default=0) + 2

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Maps `input_ids` [rows, length so far] to bool [rows]: True if the row is finished."""
        generated = input_ids[:, self._start(input_ids) :]
        done = [self._ends(row) for row in generated.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _start(self, input_ids: torch.Tensor) -> int:
        length = self._prompt.shape[1]
        if input_ids.shape[1] < length:
            return 0
        same = torch.equal(input_ids[0, :length].cpu(), self._prompt[0].cpu())
        return length if same else 0

    def _ends(self, row: list[int]) -> bool:
        if any(row[-len(ids) :] == ids for ids in self._keyword_ids if ids):
            return True
        text = self.tokenizer.decode(row[-self._window :], skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)


def _ids_without_bos(tokenizer: Any, keyword: str) -> list[int]:
    ids: list[int] = tokenizer(keyword).input_ids
    return ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids

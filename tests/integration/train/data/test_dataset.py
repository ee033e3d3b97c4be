"""A dataset that is read by the processes of a data loader."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from llava.errors import DataError
from llava.model.loading.tokenizer import load_tokenizer
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.train.data.collator import Collator
from tests.support.checkpoints import DATA, TOWER
from tests.unit.train.data.test_dataset import dataset, record


def test_errors_from_loader_processes_keep_their_type_and_message(tmp_path):
    tokenizer = load_tokenizer(DATA / "llava-v0-tiny", tokenization="sentencepiece")
    tower = build_vision_tower(str(TOWER), select_layer=-2)
    samples = dataset(tokenizer, tower, [record("<image>?", ["none.png"])], folder=tmp_path)
    loader = DataLoader(samples, num_workers=1, collate_fn=Collator(0))
    with pytest.raises(DataError, match=r"none\.png"):
        next(iter(loader))

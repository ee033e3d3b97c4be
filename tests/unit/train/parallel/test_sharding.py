"""What becomes of the sharding flags of FSDP1, and what is refused."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from llava.errors import InvalidRequest
from llava.train.parallel.sharding import Sharding, sharding_of, sharding_of_words, take_launcher_settings

LLAMA = Sharding(layers=("LlamaDecoderLayer",))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('--fsdp "full_shard auto_wrap" --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer', LLAMA),
        ('--fsdp "shard_grad_op auto_wrap"', Sharding(reshard_after_forward=False)),
        ('--fsdp "full_shard auto_wrap offload"', Sharding(cpu_offload=True)),
        ("--fsdp=full_shard,offload", Sharding(cpu_offload=True)),
        ("--fsdp", Sharding()),
        ("--fsdp True", Sharding()),
        ("--fsdp False", None),
        ('--fsdp ""', None),
        ("--learning_rate 1", None),
        ("--fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer", None),
        ("""--fsdp True --fsdp_config '{"fsdp_cpu_offload": "true", "version": 2}'""", Sharding(cpu_offload=True)),
        ("""--fsdp True --fsdp_config '{"activation_checkpointing": true}'""", Sharding(recompute=True)),
        ("""--fsdp True --fsdp_config '{"reshard_after_forward": false}'""", Sharding(reshard_after_forward=False)),
    ],
)
def test_the_flags_of_fsdp1_become_settings_of_fsdp2(words, expected):
    assert sharding_of_words(shlex.split(words)) == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ('--fsdp "hybrid_shard auto_wrap"', "hybrid_shard"),
        ("--fsdp no_shard", "no_shard"),
        ("--fsdp full_shrad", "full_shrad"),
        ('--fsdp "full_shard shard_grad_op"', "contradict"),
        ("--fsdp True --fsdp_transformer_layer_cls_to_wrap GPTBlock", "GPTBlock"),
        ("""--fsdp True --fsdp_config '{"version": 1}'""", "version 1"),
        ("""--fsdp True --fsdp_config '{"backward_prefetch": "pre"}'""", "backward_prefetch"),
        ("""--fsdp True --fsdp_config '{"state_dict_type": "FULL_STATE_DICT"}'""", "FULL_STATE_DICT"),
        ("""--fsdp True --fsdp_config '{"cpu_offload": "maybe"}'""", "maybe"),
        ("--fsdp True --fsdp_config nowhere.json", "nowhere.json"),
        ("--fsdp True --fsdp_config '[1]'", "'?\\[1\\]"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(words, named):
    with pytest.raises(InvalidRequest, match=named):
        sharding_of_words(shlex.split(words))


def test_the_settings_may_stand_in_a_file(tmp_path):
    file = tmp_path / "fsdp.json"
    file.write_text(json.dumps({"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "cpu_offload": True}))
    assert sharding_of("full_shard auto_wrap", str(file)) == replace(LLAMA, cpu_offload=True)


def test_accelerate_launch_may_ask_for_sharding(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "SHARD_GRAD_OP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer")
    assert take_launcher_settings() == replace(LLAMA, reshard_after_forward=False, cpu_offload=True)
    assert take_launcher_settings() is None

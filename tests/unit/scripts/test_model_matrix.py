"""The tables of docs/weights.md are those of the models that are tested."""

from __future__ import annotations

import ast
import re

import pytest

from llava.model.language_model.decoders import TESTED
from llava.model.multimodal_encoder.families import FAMILIES
from scripts.model_matrix import PAGE, PROOFS, REPOSITORY, put_into, table

ROWS = {"language model": set(TESTED), "vision tower": set(FAMILIES)}


@pytest.mark.parametrize("kind", PROOFS)
def test_the_page_has_a_row_for_each(kind):
    page = PAGE.read_text(encoding="utf-8")
    part = page.partition(f"<!-- matrix: {kind} -->")[2].partition(f"<!-- end: {kind} -->")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", part, flags=re.MULTILINE)) == ROWS[kind]
    assert "FAILED" not in part


@pytest.mark.parametrize("test", [test for proofs in PROOFS.values() for test in proofs])
def test_every_proof_is_a_test(test):
    file, _, name = test.partition("::")
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_cell_without_a_result_is_no_success():
    text = table("language model", {"llama": {"load": "yes", "train": "no: because"}})
    assert text.splitlines()[-1] == "| `llama` | yes | no: because | FAILED | FAILED |"
    page = put_into("a\n<!-- matrix: x -->\nold\n<!-- end: x -->\nb", "x", "new")
    assert page == "a\n<!-- matrix: x -->\nnew\n<!-- end: x -->\nb"

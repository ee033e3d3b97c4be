"""Where images meet text: every marker gets its image, and a mismatch names row, expected and found."""

from __future__ import annotations

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import ImageTokenMismatch
from llava.model.language_model.splice import splice

PATCH = 9
MARK = IMAGE_TOKEN_INDEX


@pytest.fixture(scope="module")
def embed():
    table = torch.nn.Embedding(10, 2)
    # The embedding of id i is [i, i], so results can be read.
    table.weight.data = torch.arange(10.0)[:, None].expand(10, 2).clone()
    return table


def image(value: float, length: int = 3) -> torch.Tensor:
    return torch.full((length, 2), float(value))


def run(embed, rows, features, **options):
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    options.setdefault("attention_mask", mask)
    options.setdefault("labels", None)
    return splice(ids, features=features, embed=embed, patch_id=PATCH, **options)


def content(spliced, row: int = 0) -> list[float]:
    return spliced.inputs_embeds[row, spliced.attention_mask[row].bool(), 0].tolist()


def test_patch_run_is_replaced_in_place(embed):
    spliced = run(embed, [[1, PATCH, PATCH, PATCH, 2]], [image(50)])
    assert content(spliced) == [1, 50, 50, 50, 2]


def test_marker_grows_the_row(embed):
    spliced = run(embed, [[1, MARK, 2]], [image(50)])
    assert content(spliced) == [1, 50, 50, 50, 2]


def test_several_images_a_row_keep_reading_order_over_mixed_rows(embed):
    rows = [[1, MARK, 2, MARK], [3, 4], [MARK, 5]]
    spliced = run(embed, rows, [image(50), image(60, 2), image(70, 1)])
    assert [content(spliced, row) for row in range(3)] == [[1, 50, 50, 50, 2, 60, 60], [3, 4], [70, 5]]


def test_adjacent_patch_runs_take_adjacent_images(embed):
    spliced = run(embed, [[PATCH] * 5], [image(50, 3), image(60, 2)])
    assert content(spliced) == [50, 50, 50, 60, 60]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_goes_to_the_side_asked_for_and_positions_count_content(embed, side):
    spliced = run(embed, [[1, MARK], [2, 3]], [image(50)], padding_side=side)
    expected = [[1, 1, 1, 1], [0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]]
    assert spliced.attention_mask.tolist() == expected
    mask = spliced.attention_mask.bool()
    assert spliced.position_ids[0, mask[0]].tolist() == [0, 1, 2, 3]
    assert spliced.position_ids[1, mask[1]].tolist() == [0, 1]


def test_padding_of_the_input_may_stand_on_the_left(embed):
    ids, mask = torch.tensor([[0, 0, 1, MARK]]), torch.tensor([[0, 0, 1, 1]])
    spliced = splice(ids, mask, None, [image(50)], embed, patch_id=PATCH)
    assert content(spliced) == [1, 50, 50, 50]


def test_labels_of_images_and_padding_are_ignored(embed):
    ids = torch.tensor([[1, MARK, 2], [3, 4, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    labels = torch.tensor([[IGNORE_INDEX, 7, 2], [3, 4, 8]])
    spliced = splice(ids, mask, labels, [image(50)], embed, patch_id=PATCH)
    ignored = IGNORE_INDEX
    assert spliced.labels.tolist() == [[ignored, ignored, ignored, ignored, 2], [3, 4, ignored, ignored, ignored]]


def test_gradient_reaches_features_and_text(embed):
    feature = image(50).requires_grad_()
    run(embed, [[1, MARK, 2]], [feature]).inputs_embeds.sum().backward()
    assert feature.grad.tolist() == [[1, 1]] * 3
    assert embed.weight.grad[[1, 2]].tolist() == [[1, 1]] * 2
    embed.weight.grad = None


@pytest.mark.parametrize(
    ("rows", "lengths", "message"),
    [
        ([[1, PATCH, PATCH]], [3], r"row 0: the run of <im_patch> at token 1 has 2 tokens, expected 3"),
        (
            [[1], [2, PATCH, PATCH, PATCH, PATCH]],
            [3],
            r"row 1: the run of <im_patch> at token 1 has 4 tokens, expected 3",
        ),
        ([[MARK, 1], [2, MARK]], [3], r"row 1: the prompt has an image at token 1, but only 1 image was given"),
        ([[MARK, 1]], [3, 3], r"2 images were given, but the 1 rows have places for 1"),
        ([[1, 2]], [3], r"1 images were given, but the 1 rows have places for 0"),
        ([[1, PATCH], [PATCH, PATCH]], [3], r"row 0: the run of <im_patch> at token 1 has 1 tokens, expected 3"),
    ],
)
def test_mismatch_names_row_expected_and_found(embed, rows, lengths, message):
    with pytest.raises(ImageTokenMismatch, match=message):
        run(embed, rows, [image(50, length) for length in lengths])


def test_a_batch_is_looked_up_at_once_however_many_rows_and_images_it_has(embed):
    """Sharded embeddings are gathered at each look-up, which all processes must do equally often."""
    calls = []
    embed.register_forward_hook(lambda *_: calls.append(1))
    for rows, features in (
        ([[1, MARK, 2], [3, 4]], [image(50)]),
        ([[1, MARK], [MARK, 2], [3]], [image(50), image(60)]),
    ):
        calls.clear()
        run(embed, rows, features)
        assert len(calls) == 1

"""Images to pixels as the original makes them, and prompts with images to ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    LogitsProcessor,
    SiglipImageProcessorPil,
)

from llava.errors import ImageShapeError, ImageTokenMismatch, InvalidRequest
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    divide_to_patches,
    expand2square,
    expand_image_tokens,
    get_anyres_image_grid_shape,
    get_model_name_from_path,
    load_image,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
    tokenizer_image_token,
)

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "golden" / "pictures.json").read_text(encoding="utf-8"))
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil.from_pretrained(DATA / "clip-tiny")


@pytest.fixture(scope="module")
def tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer.from_pretrained(DATA / "llava-v1.5-tiny", legacy=True, add_bos_token=True)


def open_image(name: str) -> Image.Image:
    return load_image(DATA / "images" / f"{name}.png")


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def normalised(image: Image.Image) -> torch.Tensor:
    """The arithmetic of CLIP's preprocessing after resizing and cropping, written out by itself."""
    values = (np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(values.transpose(2, 0, 1)).float()


# Aspect modes against pixels of the original


@pytest.mark.parametrize("case", GOLDEN["pixels"])
def test_pixels_equal_those_of_the_original(processor, case):
    mode, name = case.split(".")
    pixels = process_images([open_image(name)], processor, SimpleNamespace(image_aspect_ratio=mode))[0]
    expected = GOLDEN["pixels"][case]
    assert pixels.dtype == torch.float32
    assert pixels.double().sum().item() == pytest.approx(expected["sum"], abs=1e-2)
    if "sha256_of_uint8" in expected:
        rows = load_file(DATA / "golden" / "pixel_rows.safetensors")[case]
        torch.testing.assert_close(pixels[:, 5::16], rows, rtol=0, atol=1e-6)
        # Every pixel, as the 8-bit value it came from.
        values = (pixels.permute(1, 2, 0).double().numpy() * STD + MEAN) * 255
        as_bytes = np.rint(values).astype(np.uint8).transpose(2, 0, 1).tobytes()
        assert hashlib.sha256(as_bytes).hexdigest() == expected["sha256_of_uint8"]


@pytest.mark.parametrize("name", GOLDEN["keep_shapes"])
def test_mode_keep_gives_the_grids_of_the_original_and_nothing_but_a_resized_image(processor, name):
    image = open_image(name)
    pixels = process_images([image], processor, {"image_aspect_ratio": "keep"})[0]
    assert list(pixels.shape) == GOLDEN["keep_shapes"][name]
    resized = image.resize((pixels.shape[2], pixels.shape[1]), Image.Resampling.BICUBIC)
    torch.testing.assert_close(pixels, normalised(resized), rtol=0, atol=1e-6)


def test_mode_keep_bounds_the_longer_side_of_a_wide_image(processor):
    assert process_images([open_image("wide")], processor, {"image_aspect_ratio": "keep"}).shape == (1, 3, 105, 448)


@pytest.mark.parametrize("size", [(640, 150), (20_000, 10)])
def test_a_tower_that_cuts_nothing_out_sees_the_whole_image(size):
    siglip = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    image = noise(*size)
    expected = siglip(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(process_images([image], siglip, None), expected)
    for mode in ("pad", "resize", "anyres"):
        config = {"image_aspect_ratio": mode, "image_grid_pinpoints": [[64, 128], [128, 64]]}
        assert process_images([image], siglip, config).shape[-3:] == (3, 64, 64)


def test_mode_keep_refuses_an_image_too_thin_for_one_patch(processor):
    with pytest.raises(ImageShapeError, match=r"1 x 500.*pad or square"):
        process_images([noise(1, 500)], processor, {"image_aspect_ratio": "keep"})


def test_mode_resize_shows_the_whole_image_distorted(processor):
    pixels = process_images([open_image("wide")], processor, {"image_aspect_ratio": "resize"})[0]
    expected = normalised(open_image("wide").resize((224, 224), Image.Resampling.BICUBIC))
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_mode_pad_shows_the_whole_image_on_the_mean_colour(processor):
    pixels = process_images([Image.new("RGB", (100, 50), "white")], processor, {"image_aspect_ratio": "pad"})[0]
    border = normalised(Image.new("RGB", (1, 1), (122, 116, 104)))
    torch.testing.assert_close(pixels[:, :1, :1], border, rtol=0, atol=1e-6)
    torch.testing.assert_close(pixels[:, 112:113, 5:6], normalised(Image.new("RGB", (1, 1), "white")))


@pytest.mark.parametrize("size", GOLDEN["anyres_336"])
def test_anyres_chooses_the_grid_of_the_original(size):
    width, height = map(int, size.split("x"))
    expected = GOLDEN["anyres_336"][size]
    assert list(select_best_resolution((width, height), PINPOINTS)) == expected["best"]
    assert list(get_anyres_image_grid_shape((width, height), str(PINPOINTS), 336)) == expected["grid"]


@pytest.mark.parametrize("name", ["land", "port", "wide", "tiny"])
def test_anyres_tiles_put_together_are_the_image_on_black(processor, name):
    image, pinpoints = open_image(name), [[224, 448], [448, 224], [448, 448], [672, 224]]
    pixels = process_images([image], processor, {"image_aspect_ratio": "anyres", "image_grid_pinpoints": pinpoints})[0]
    width, height = select_best_resolution(image.size, pinpoints)
    columns, rows = width // 224, height // 224
    assert pixels.shape == (1 + columns * rows, 3, 224, 224)
    torch.testing.assert_close(pixels[0], normalised(image.resize((224, 224))), rtol=0, atol=1e-6)
    whole = pixels[1:].view(rows, columns, 3, 224, 224).permute(2, 0, 3, 1, 4).reshape(3, height, width)
    scale = min(width / image.width, height / image.height)
    inner = min(width, -int(-image.width * scale // 1)), min(height, -int(-image.height * scale // 1))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    torch.testing.assert_close(whole, normalised(canvas), rtol=0, atol=1e-6)


def test_only_the_image_of_a_conversation_with_one_is_tiled_in_mode_anyres_max(processor):
    """As LLaVA-OneVision was trained: several images are padded to one tile each."""
    config = {"image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": [[448, 224], [224, 448]]}
    images = [Image.new("RGB", (400, 200), "red"), Image.new("RGB", (200, 400), "blue")]
    alone = process_images(images[:1], processor, config, num_images=1)
    together = process_images(images, processor, config, num_images=2)
    padded = process_images(images, processor, {"image_aspect_ratio": "pad"})
    assert list(alone.shape[:2]) == [1, 3]
    assert torch.equal(together[:, 0], padded)
    assert together.shape[1] == 1


def test_anyres_takes_its_grid_as_a_list_or_as_text(processor):
    image = open_image("land")
    as_list = process_anyres_image(image, processor, [[224, 448], [448, 224]])
    assert torch.equal(as_list, process_anyres_image(image, processor, "[(224, 448), (448, 224)]"))


@pytest.mark.parametrize("pinpoints", ["[[336", [], "[]", [[336]], "(1x", [["a", "b"]]])
def test_a_grid_that_is_none_is_an_error_that_shows_it(processor, pinpoints):
    with pytest.raises(InvalidRequest, match="image_grid_pinpoints"):
        process_images([noise(4, 4)], processor, {"image_aspect_ratio": "anyres", "image_grid_pinpoints": pinpoints})


def test_an_aspect_mode_that_does_not_exist_is_an_error_that_lists_the_modes(processor):
    with pytest.raises(InvalidRequest, match=r"'stretch'.*square, pad, keep, resize, anyres or anyres_max_N"):
        process_images([noise(4, 4)], processor, {"image_aspect_ratio": "stretch"})


@pytest.mark.parametrize("config", [None, {}, {"image_aspect_ratio": None}, {"image_aspect_ratio": "square"}])
def test_without_a_mode_the_centre_is_cut_out(processor, config):
    image = noise(300, 200)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(process_images([image], processor, config), expected)


def test_images_of_one_shape_are_stacked_and_others_listed(processor):
    keep = {"image_aspect_ratio": "keep"}
    assert process_images([noise(40, 40), noise(80, 80)], processor, keep).shape == (2, 3, 224, 224)
    mixed = process_images([noise(40, 40), noise(80, 40)], processor, keep)
    assert [tuple(tensor.shape) for tensor in mixed] == [(3, 224, 224), (3, 224, 448)]
    assert process_images([], processor, keep) == []


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_an_image_of_any_mode_becomes_pixels(processor, mode):
    image = Image.new(mode, (30, 20))
    for aspect in ("square", "pad", "keep", "resize"):
        assert process_images([image], processor, {"image_aspect_ratio": aspect})[0].shape[0] == 3


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (60_000, 3)])
@pytest.mark.parametrize("mode", ["square", "pad", "resize", "anyres"])
def test_a_thread_of_an_image_is_processed_without_a_huge_canvas(processor, size, mode):
    config = {"image_aspect_ratio": mode, "image_grid_pinpoints": PINPOINTS}
    pixels = process_images([Image.new("RGB", size, (200, 10, 10))], processor, config)[0]
    assert pixels.shape[-2:] == (224, 224)


@pytest.mark.parametrize("size", [(4000, 10), (4001, 10), (9, 3999), (701, 2)])
def test_cutting_the_ends_of_a_long_image_first_changes_next_to_nothing(processor, size):
    image = noise(*size)
    whole = processor(image, return_tensors="pt")["pixel_values"]
    ours = process_images([image], processor, None)
    # Half an output pixel of shift where the halves do not come out even; the image is noise, the worst there is.
    assert (whole - ours).abs().mean() < 0.05


# The original's helpers under their names


def test_expand2square_centres_the_image():
    square = expand2square(Image.new("RGB", (3, 1), "white"), (1, 2, 3))
    assert [square.getpixel((1, row)) for row in range(3)] == [(1, 2, 3), (255, 255, 255), (1, 2, 3)]
    assert expand2square(Image.new("L", (1, 2)), (1, 2, 3)).getpixel((1, 0)) == (1, 2, 3)
    image = Image.new("RGB", (5, 5))
    assert expand2square(image, (0, 0, 0)) is image


def test_resize_and_pad_image_keeps_proportions():
    fitted = resize_and_pad_image(Image.new("RGB", (10, 20), "white"), (100, 100))
    assert fitted.getbbox() == (25, 0, 75, 100)


def test_divide_to_patches_goes_row_by_row():
    image = Image.new("RGB", (4, 4))
    image.putpixel((2, 0), (9, 9, 9))
    image.putpixel((0, 2), (7, 7, 7))
    assert [tile.getpixel((0, 0))[0] for tile in divide_to_patches(image, 2)] == [0, 9, 7, 0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
        ("/models/LLaVA-7B-v0/", "LLaVA-7B-v0"),
        ("runs/llava-mine/checkpoint-400", "llava-mine_checkpoint-400"),
        ("checkpoint-400", "checkpoint-400"),
    ],
)
def test_a_model_is_named_after_its_folder(path, name):
    assert get_model_name_from_path(path) == name


# Prompts


@pytest.mark.parametrize("case", GOLDEN["prompt_ids"], ids=lambda case: case["prompt"][-30:])
def test_ids_of_a_prompt_with_an_image_equal_those_of_the_original(tokenizer, case):
    ids = tokenizer_image_token(case["prompt"], tokenizer, return_tensors="pt")
    assert ids.dtype == torch.int64
    assert ids.tolist() == case["input_ids"]


def test_each_marker_becomes_one_image_index_and_the_text_begins_once(tokenizer):
    ids = tokenizer_image_token("<image>one<image><image> two", tokenizer)
    assert ids[:2] == [tokenizer.bos_token_id, -200]
    assert ids.count(-200) == 3
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer_image_token("<image>", tokenizer, -7) == [tokenizer.bos_token_id, -7]
    assert tokenizer_image_token("no image", tokenizer) == tokenizer("no image").input_ids


def test_a_tokenizer_that_adds_no_bos_loses_no_token():
    bare = LlamaTokenizer.from_pretrained(DATA / "llava-v1.5-tiny", legacy=True, add_bos_token=False)
    ids = tokenizer_image_token("a cat<image>a cat", bare)
    assert ids == [*bare("a cat").input_ids, -200, *bare("a cat").input_ids]


def test_an_unknown_tensor_kind_is_an_error(tokenizer):
    with pytest.raises(InvalidRequest, match="'np'"):
        tokenizer_image_token("x", tokenizer, return_tensors="np")


def test_v0_markers_are_written_out_as_patch_runs():
    assert expand_image_tokens("a <image> b", 2, False) == "a <im_patch><im_patch> b"
    text = expand_image_tokens("<image><image>", [1, 3], True)
    assert text == "<im_start><im_patch><im_end><im_start><im_patch><im_patch><im_patch><im_end>"
    assert expand_image_tokens("no image", 256, True) == "no image"


def test_patch_runs_for_another_number_of_images_are_an_error_with_both_numbers():
    with pytest.raises(ImageTokenMismatch, match="1 <image> markers for 2 images"):
        expand_image_tokens("<image>", [256, 256], True)


# Stopping at a keyword


class Script(LogitsProcessor):
    """Makes a model say what is written, row by row."""

    def __init__(self, rows: list[list[int]], prompt_length: int):
        self.rows, self.prompt_length = rows, prompt_length

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_length
        forced = torch.full_like(scores, -1e9)
        for row, ids in enumerate(self.rows):
            forced[row, ids[min(step, len(ids) - 1)]] = 0.0
        return forced


@pytest.fixture(scope="module")
def speaker() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=2048, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).eval()


def say(speaker, tokenizer, answers: list[str], *, prompt: str, keyword: str, embedded: bool = False) -> list[str]:
    """Generates scripted answers with the stopping criterion, and gives what was generated."""
    prompt_ids = torch.tensor([tokenizer(prompt).input_ids] * len(answers))
    rows = [tokenizer(answer, add_special_tokens=False).input_ids + [5] * 20 for answer in answers]
    length = 0 if embedded else prompt_ids.shape[1]
    inputs = {"inputs_embeds": speaker.get_input_embeddings()(prompt_ids)} if embedded else {"input_ids": prompt_ids}
    generated = speaker.generate(
        **inputs,
        attention_mask=torch.ones_like(prompt_ids),
        max_new_tokens=18,
        do_sample=False,
        pad_token_id=0,
        logits_processor=[Script(rows, length)],
        stopping_criteria=[KeywordsStoppingCriteria([keyword], tokenizer, prompt_ids)],
    )
    return tokenizer.batch_decode(generated[:, length:], skip_special_tokens=True)


@pytest.mark.parametrize("embedded", [False, True], ids=["ids", "inputs_embeds"])
def test_generation_stops_at_a_keyword_and_not_at_one_in_the_prompt(speaker, tokenizer, embedded):
    (text,) = say(speaker, tokenizer, ["It is a cat.###"], prompt="###Human: hi###", keyword="###", embedded=embedded)
    assert text.strip() == "It is a cat.###"


def test_an_answer_alone_that_is_longer_than_the_prompt_is_read_from_its_beginning(tokenizer):
    """`generate` with `inputs_embeds` gives new tokens only; the prompt's length must not be cut off them."""
    keyword = tokenizer("zebra", add_special_tokens=False).input_ids
    assert len(keyword) >= 3
    criterion = KeywordsStoppingCriteria(["zebra"], tokenizer, torch.tensor([[1, 9, 8, 7]]))
    assert criterion(torch.tensor([[31, *keyword]]), None).tolist() == [True]


def test_a_keyword_in_the_very_first_token_stops(speaker, tokenizer):
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, torch.tensor([[1, 9, 9]]))
    first = tokenizer("###", add_special_tokens=False).input_ids
    assert criterion(torch.tensor([[1, 9, 9, *first]]), None).tolist() == [True]
    (text,) = say(speaker, tokenizer, ["###"], prompt="Hello", keyword="###")
    assert text.strip() == "###"


def test_rows_of_a_batch_stop_each_at_its_own_place(speaker, tokenizer):
    short, long = say(speaker, tokenizer, ["No.###", "It is a black cat.###"], prompt="Is it?", keyword="###")
    assert short.strip() == "No.###"
    assert long.strip() == "It is a black cat.###"


def test_a_special_token_is_a_keyword_too(tokenizer):
    criterion = KeywordsStoppingCriteria(["</s>"], tokenizer, torch.tensor([[1, 9], [1, 9]]))
    rows = torch.tensor([[1, 9, 30, tokenizer.eos_token_id], [1, 9, 30, 31]])
    assert criterion(rows, None).tolist() == [True, False]


def test_empty_keywords_never_stop(tokenizer):
    criterion = KeywordsStoppingCriteria(["", None], tokenizer, torch.tensor([[1]]))
    assert criterion(torch.tensor([[1, 5, 6]]), None).tolist() == [False]

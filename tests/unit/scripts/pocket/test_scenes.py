"""The generated scenes show what their facts say."""

from __future__ import annotations

import numpy as np

from scripts.pocket import patches, scenes

SEEDS = range(60)


def _pixels(scene: scenes.Scene) -> np.ndarray:
    return np.asarray(scenes.render(scene)).astype(int)


def _nearest(pixel: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: int(np.abs(pixel - np.array(palette[name])).sum()))


def test_every_object_shows_its_colour_where_the_facts_put_it():
    for seed in SEEDS:
        scene = scenes.sample(seed)
        picture = _pixels(scene)
        palette = {**scenes.COLOURS, "(background)": scenes.BACKGROUNDS[scene.background]}
        for item in scene.objects:
            x, y, r = round(item.x), round(item.y), round(item.radius)
            box = picture[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].reshape(-1, 3)
            shown = [_nearest(pixel, palette) for pixel in box]
            assert shown.count(item.colour) >= 8, (seed, item, {name: shown.count(name) for name in set(shown)})


def test_places_without_an_object_show_the_background():
    for seed in SEEDS:
        scene = scenes.sample(seed)
        picture = _pixels(scene)
        taken = {(o.row, o.column) for o in scene.objects}
        for row, column in {(r, c) for r in range(3) for c in range(3)} - taken:
            y, x = round((row + 0.5) * scenes.CELL), round((column + 0.5) * scenes.CELL)
            patch = picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0)
            assert _nearest(patch, scenes.BACKGROUNDS) == scene.background, seed


def test_a_seed_always_gives_the_same_picture_and_another_seed_another():
    assert (_pixels(scenes.sample(3)) == _pixels(scenes.sample(3))).all()
    assert (_pixels(scenes.sample(3)) != _pixels(scenes.sample(4))).any()


def test_a_large_rendering_reduced_is_the_small_one():
    """People look at 264 pixels, the tower at 66: it must see the same."""
    from PIL import Image

    seeds = [seed for seed in range(40) if scenes.sample(seed).objects]
    differences = []
    for seed in seeds:
        scene = scenes.sample(seed)
        large = scenes.render(scene, scenes.SIDE * scenes.OVERSAMPLE)
        small = large.resize((scenes.SIDE, scenes.SIDE), Image.Resampling.BICUBIC)
        differences.append(np.abs(np.asarray(small).astype(int) - _pixels(scene)).mean())
    assert max(differences) < 3


def test_objects_are_in_reading_order_in_cells_of_their_own():
    for seed in range(300):
        cells = [(o.row, o.column) for o in scenes.sample(seed).objects]
        assert cells == sorted(set(cells))
        assert 1 <= len(cells) <= scenes.MOST_OBJECTS


def test_the_tower_is_asked_about_each_object_where_it_is():
    for seed in SEEDS:
        scene = scenes.sample(seed)
        answer = {name: values.reshape(patches.GRID, patches.GRID) for name, values in patches.targets(scene).items()}
        assert (answer["kind"] != patches.BACKGROUND_KIND).sum() == len(scene.objects), seed
        for item in scene.objects:
            row, column = int(item.y // patches.PATCH), int(item.x // patches.PATCH)
            assert answer["kind"][row, column] == scenes.KINDS.index(item.kind)
            assert answer["colour"][row, column] == list(scenes.COLOURS).index(item.colour)
            assert answer["cell"][row, column] == item.row * 3 + item.column
        shown = {scenes.KINDS[k] for k in np.unique(answer["kind"]) if 0 <= k < patches.BACKGROUND_KIND}
        assert shown == {item.kind for item in scene.objects}

"""Drawing: where ink may lie, what it looks like at any size, and names of every script."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from transformers_detr.visualization import annotate
from transformers_detr.visualization.annotate import draw_boxes, draw_segments
from transformers_detr.visualization.palette import class_color

GRAY = (90, 91, 92)


def ground(width, height):
    return Image.new("RGB", (width, height), GRAY)


def inked(image):
    """`(height, width)`: True where the image differs from the ground."""
    return (np.asarray(image) != np.array(GRAY)).any(axis=-1)


def test_frame_lies_on_the_box_and_the_inside_stays():
    drawn = np.asarray(draw_boxes(ground(400, 300), [[100, 150, 220, 250]], ["cat 0.98"], [17]))
    color = np.array(class_color(17))
    for row, column in [(150, 120), (250, 160), (200, 100), (200, 220)]:
        assert (drawn[row, column] == color).all()
    assert not inked(drawn)[165:235, 115:205].any()


def test_chip_sits_on_the_box_in_the_color_of_the_class():
    drawn = np.asarray(draw_boxes(ground(400, 300), [[100, 150, 220, 250]], ["cat 0.98"], [17]))
    chip = (drawn[138:149] == np.array(class_color(17))).all(axis=-1)
    assert chip.sum() > 150
    assert not inked(drawn)[:120].any()


@pytest.mark.parametrize(
    "box",
    [[0, 0, 399, 299], [390, 0, 399, 20], [0, 290, 10, 299], [-50, -60, 500, 400], [395, 295, 420, 330]],
)
@pytest.mark.parametrize("caption", ["cat 0.98", "x" * 500, "refrigerator 1.00"])
def test_whole_chip_stays_inside_the_frame(box, caption, monkeypatch):
    chips = []
    place = annotate._place_chip
    monkeypatch.setattr(annotate, "_place_chip", lambda *args: chips.append(place(*args)) or chips[-1])
    draw_boxes(ground(400, 300), [box], [caption], [1])
    ((left, top, right, bottom),) = chips
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 300


def test_captions_evade_each_other(monkeypatch):
    chips = []
    place = annotate._place_chip
    monkeypatch.setattr(annotate, "_place_chip", lambda *args: chips.append(place(*args)) or chips[-1])
    draw_boxes(ground(400, 300), [[100, 100, 300, 200]] * 3, ["cat 0.9", "dog 0.8", "cow 0.7"], [1, 2, 3])
    assert len(chips) == 3
    for i in range(3):
        for j in range(i):
            a, b = chips[i], chips[j]
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_caption_evades_what_shall_stay_free_and_covers_the_least_where_nothing_is_free(monkeypatch):
    chips = []
    place = annotate._place_chip
    monkeypatch.setattr(annotate, "_place_chip", lambda *args: chips.append(place(*args)) or chips[-1])
    box = [100, 100, 300, 200]
    draw_boxes(ground(400, 300), [box], ["cat 0.9"], [1])
    draw_boxes(ground(400, 300), [box], ["cat 0.9"], [1], keep_free=[(90, 60, 150, 110)])
    wall = [(0, 0, 400, 150), (0, 150, 400, 201), (0, 204, 250, 300)]  # below the box, 3 rows are free
    draw_boxes(ground(400, 300), [box], ["cat 0.9"], [1], keep_free=wall)
    above, evading, below = chips
    assert above[3] == 100
    assert evading[0] >= 150 or evading[1] >= 110
    assert (below[0], below[1]) == (100, 200)


def test_line_and_letters_grow_with_the_image():
    share = {}
    for side in (1000, 4000):
        box = [side // 4, side // 2, side * 3 // 4, side * 3 // 4]
        share[side] = inked(draw_boxes(ground(side, side), [box], ["cat 0.98"], [1])).mean()
    assert share[4000] == pytest.approx(share[1000], rel=0.15)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 30), (40, 4000), (4000, 40)])
def test_tiny_and_extreme_images(size):
    drawn = draw_boxes(ground(*size), [[0, 0, *size]], ["refrigerator 0.98"], [82])
    assert drawn.size == size
    assert inked(drawn).any()


def test_captions_do_not_hide_a_tiny_image():
    drawn = draw_boxes(ground(40, 27), [[4, 4, 36, 24]], ["refrigerator 0.98"], [3])
    assert inked(drawn).mean() < 0.15
    assert inked(draw_boxes(ground(60, 40), [[4, 4, 36, 24]], ["refrigerator 0.98"], [3])).mean() > 0.2


@pytest.mark.parametrize(
    "box",
    [
        [-30, -30, -10, -10],
        [500, 10, 600, 20],
        [float("nan"), 0, 10, 10],
        [0, 0, float("inf"), 10],
        [20, 20, 10, 30],
    ],
)
def test_boxes_that_show_nothing_are_left_out(box):
    assert not inked(draw_boxes(ground(400, 300), [box], ["cat"], [1])).any()


def test_first_box_lies_on_top():
    boxes = [[100, 100, 200, 200], [100, 100, 200, 200]]
    drawn = np.asarray(draw_boxes(ground(400, 300), boxes, ["", ""], [3, 5]))
    assert (drawn[150, 100] == np.array(class_color(3))).all()


def test_image_is_copied_and_becomes_rgb():
    image = Image.new("LA", (60, 50), (30, 128))
    before = image.tobytes()
    drawn = draw_boxes(image, np.zeros((0, 4)), [], [])
    assert drawn.mode == "RGB"
    assert drawn.size == (60, 50)
    draw_boxes(image, [[1, 1, 20, 20]], ["a"], [0])
    assert image.tobytes() == before


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="same length, got 1, 2 and 1"):
        draw_boxes(ground(9, 9), [[0, 0, 1, 1]], ["a", "b"], [1])
    with pytest.raises(ValueError, match=r"shape \(N, 4\), got \(2, 3\)"):
        draw_boxes(ground(9, 9), [[0, 0, 1], [0, 0, 1]], ["a", "b"], [1, 2])


def test_colors_of_neighboring_classes_differ_by_more_than_hue():
    colors = [class_color(label) for label in range(91)]
    assert colors == [class_color(label) for label in range(91)]
    assert len(set(colors[:21])) == 21
    distances = [np.abs(np.subtract(colors[i], colors[j])).sum() for i in range(21) for j in range(i)]
    assert min(distances) > 40
    assert class_color(0) == ImageColor.getrgb("#E69F00")


@pytest.mark.parametrize("name", ["café", "человек", "椅子", "مزهرية", "कुर्सी", "🐈", "a\nb\tc\x00", " "])
def test_any_name_can_be_drawn(name):
    drawn = draw_boxes(ground(400, 300), [[100, 100, 300, 200]], [f"{name} 0.98"], [1])
    assert inked(drawn).any()


def two_halves(width, height):
    """Segments 1 and 2 side by side, nothing in the lower half."""
    ids = np.zeros((height, width), dtype=np.int32)
    ids[: height // 2, : width // 2], ids[: height // 2, width // 2 :] = 1, 2
    return ids


def test_segments_are_tinted_and_the_rest_stays():
    drawn = np.asarray(draw_segments(ground(400, 300), two_halves(400, 300), [1, 2], ["", ""], [17, 17]))
    assert not inked(drawn)[150:].any()
    assert inked(drawn)[:150].all()
    tint = (np.array(GRAY) + class_color(17)) / 2
    assert np.abs(drawn[60, 60] - tint).max() <= 1
    assert (drawn[60, 199] == 0).all()
    assert (drawn[60, 200] == 0).all(), "two segments of one class are told apart"


def test_segments_that_are_not_listed_stay():
    ids = two_halves(400, 300)
    drawn = draw_segments(ground(400, 300), ids, [2], ["cat"], [1])
    assert not inked(drawn)[(ids == 1) | (ids == 0)].any()


def test_caption_lies_where_the_segment_is_widest(monkeypatch):
    chips = []
    place = annotate._place_chip
    monkeypatch.setattr(annotate, "_place_chip", lambda *args: chips.append(place(*args)) or chips[-1])
    ids = np.zeros((300, 400), dtype=np.int32)
    ids[10:14, 10:390] = 5  # a long thin arm
    ids[10:280, 250:390] = 5
    draw_segments(ground(400, 300), ids, [5], ["cat 0.98"], [1])
    ((left, top, right, bottom),) = chips
    assert 250 < (left + right) / 2 < 390
    assert 70 < (top + bottom) / 2 < 230


def test_captions_of_segments_never_overlap_and_large_ones_come_first(monkeypatch):
    chips = []
    draw = annotate._draw_chip
    monkeypatch.setattr(annotate, "_draw_chip", lambda *args: chips.append((args[1], args[2].text)) or draw(*args))
    ids = np.ones((300, 400), dtype=np.int32)
    for number in range(2, 30):
        ids[148:152, 10 * number : 10 * number + 4] = number
    names = [f"name {number}" for number in range(1, 30)]
    draw_segments(ground(400, 300), ids, range(1, 30), names, range(29))
    assert 1 < len(chips) < 29
    assert "name 1" in [text for _, text in chips]
    for i, (a, _) in enumerate(chips):
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b, _ in chips[:i])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (40, 3000), (3000, 40)])
def test_segments_of_tiny_and_extreme_images(size):
    ids = np.ones(size[::-1], dtype=np.int32)
    drawn = draw_segments(ground(*size), ids, [1, 2], ["refrigerator 0.98", "absent"], [82, 3])
    assert drawn.size == size
    assert inked(drawn).all()


def test_mismatched_segments_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(3, 2\)"):
        draw_segments(ground(3, 2), np.zeros((3, 2)), [], [], [])
    with pytest.raises(ValueError, match="same length, got 1, 2 and 1"):
        draw_segments(ground(3, 2), np.zeros((2, 3)), [1], ["a", "b"], [1])

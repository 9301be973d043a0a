import xml.etree.ElementTree as ElementTree

import pytest

from radit_job.report.curves import Line, epoch_curve, loss_curve, smoothed
from radit_job.report.figures import Group, Span, bar, interval_plot, nice_ticks, tick_text

ROW = Span("lm − base", 0.25, 0.14, 0.36, "arm-lm", "+0.25 [0.14, 0.36]")


def parts(svg, name):
    return [part for part in ElementTree.fromstring(svg).iter() if part.tag.endswith(name)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.02, 0.97, [0.0, 0.5, 1.0]),
        (0.0, 0.8, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (-0.05, 0.36, [-0.2, 0.0, 0.2, 0.4]),
        (3.0, 3.0, [2.5, 3.0, 3.5]),
        (0, 1200, [0, 500, 1000, 1500]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_ticks_show_as_many_decimals_as_they_need():
    assert [tick_text(tick, [-0.05, 0.0, 0.05]) for tick in (-0.05, 0.0)] == ["−0.05", "0.00"]
    assert tick_text(50, [0, 50]) == "50"


def test_smoothing_is_not_pulled_to_zero_at_its_start():
    assert smoothed([(1, 2.0), (2, 2.0), (3, 2.0)]) == [
        (1, pytest.approx(2.0)),
        (2, pytest.approx(2.0)),
        (3, pytest.approx(2.0)),
    ]


def test_an_interval_stands_where_its_numbers_say():
    svg = interval_plot([Group("token F1", (ROW,))], title="Differences", description="d", mark=0.0)
    # Ticks enclose 0 to 0.36, so the axis runs from 0 to 0.4.
    (circle,) = parts(svg, "circle")
    (whisker,) = [line for line in parts(svg, "line") if line.get("class") == "whisker"]
    (zero,) = [line for line in parts(svg, "line") if line.get("class") == "mark"]
    assert circle.get("cx") == "62.50%"
    assert (whisker.get("x1"), whisker.get("x2")) == ("35.00%", "90.00%")
    assert zero.get("x1") == "0.00%"


def test_a_row_without_an_interval_is_a_point():
    svg = interval_plot([Group("", (Span("lm", 0.5, None, None, "arm-lm"),))], title="t", description="d")
    assert len(parts(svg, "circle")) == 1
    assert "whisker" not in svg


def test_texts_from_outside_cannot_leave_the_figure():
    row = Span("<script>alert(1)</script>", 0.5, 0.4, 0.6, '"><script>', "</svg>")
    svg = interval_plot([Group("<b>", (row,))], title='"quoted" <i>', description="</desc>")
    assert "<script" not in svg
    ElementTree.fromstring(svg)


def test_nothing_gives_no_figure():
    assert interval_plot([], title="t", description="d") == ""
    assert loss_curve([], [], best_step=None, title="t", description="d") == ""


def test_the_loss_curve_marks_the_kept_checkpoint():
    svg = loss_curve(
        [(1, 2.0), (2, 1.8), (10, 1.0)], [(5, 1.5), (10, 1.2)], best_step=10, title="Loss", description="d"
    )
    assert "kept: step 10" in svg
    assert [circle.get("cx") for circle in parts(svg, "circle")] == ["50.00%", "100.00%"]
    assert {line.get("class") for line in parts(svg, "polyline")} == {"train-raw", "train", "dev"}


def test_a_training_without_held_out_loss_still_has_a_curve():
    svg = loss_curve([(1, 2.0), (2, 1.8)], [], best_step=None, title="Loss", description="d")
    assert not parts(svg, "circle")
    assert "kept" not in svg


def test_epochs_are_whole_and_begin_before_training():
    lines = [Line("dev", [(0, 0.4), (1, 0.3), (2, 0.35)], name="KL, "), Line("mrr", [(0, 0.3)])]
    svg = epoch_curve(lines, best_epoch=1, title="KL", description="d")
    ticks = [part.text for part in parts(svg, "text") if part.get("text-anchor") == "middle"]
    assert ticks == ["0", "1", "2", "epoch (0: before training)"]
    assert "kept: epoch 1" in svg and "KL, epoch 1: 0.300" in svg
    assert [line.get("class") for line in parts(svg, "polyline")] == ["dev"]  # a single point makes no line
    assert len(parts(svg, "circle")) == 4
    assert epoch_curve([Line("dev", [])], best_epoch=1, title="KL", description="d") == ""


def test_every_figure_says_what_it_shows():
    svg = interval_plot([Group("", (ROW,))], title="Differences", description="lm minus base: +0.25")
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    named = {part.get("id"): part.text for part in root}
    assert [named[identity] for identity in root.get("aria-labelledby").split()] == [
        "Differences",
        "lm minus base: +0.25",
    ]


def test_a_bar_stays_in_its_cell():
    assert 'width="100.0%"' in bar(1.7)
    assert 'width="0.5%"' in bar(0.0)

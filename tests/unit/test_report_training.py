"""The training section: what a fine-tuning API tells of its steps, and what a local engine writes."""

import xml.etree.ElementTree as ElementTree

import pytest

from radit_job.report.training import section

API = {
    "engine": "openai",
    "job_id": "ftjob-1",
    "model": "ft:gpt-4o-mini:acme::1",
    "steps": [{"step": step, "loss": 1.6 - step / 100} for step in range(12, 121, 12)],  # down to 0.4
    "evaluations": [],
    "best_step": 126,
    "stopped_early": False,
    "n_steps": 126,
    "n_train": 42,
    "n_dev": 0,
    "n_truncated": 0,
}
LOCAL = {
    "steps": [{"step": step, "loss": 2.0 - step / 20, "learning_rate": 5e-4} for step in range(1, 11)],
    "evaluations": [{"step": 5, "dev_loss": 1.8}, {"step": 10, "dev_loss": 1.7}],
    "best_step": 5,
    "n_train": 16,
    "n_dev": 2,
}


def parts(svg, name):
    return [part for part in ElementTree.fromstring(svg).iter() if part.tag.endswith(name)]


def lines(found):
    """CSS class -> the (x, y) of a line's points, in percent of the plot."""
    return {
        line.get("class"): [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in parts(found["curve"], "polyline")
    }


def test_the_optimizer_s_steps_are_counted_and_not_the_points_of_the_curve():
    assert section(API, {})["facts"]["optimizer steps"] == 126
    assert section(LOCAL, {})["facts"]["optimizer steps"] == 10


def test_a_few_of_the_steps_are_drawn_as_they_are_and_called_a_few():
    found = section(API, {})
    assert found["keys"] == [("train", "training loss at the 10 of 126 steps that the service tells of")]
    assert set(lines(found)) == {"train"} and len(parts(found["curve"], "circle")) == 10
    # The axis goes from 0 to 1.5; a smoothed line would end far above the last loss.
    assert lines(found)["train"][-1][1] == pytest.approx(100 * (1 - 0.4 / 1.5), abs=0.01)
    assert "from 1.480 to 0.400" in found["curve"] and "smoothed" not in found["curve"]


def test_no_point_of_an_api_s_curve_leaves_the_plot():
    every_step = API | {"n_steps": 10, "best_step": 10}
    every_step["steps"] = [{"step": step, "loss": 2.0 - 0.19 * step} for step in range(1, 11)]
    for training in (API, every_step):
        found = section(training, {})
        assert all(0 <= y <= 100 for line in lines(found).values() for _, y in line)
        assert all(0 <= x <= 100 for line in lines(found).values() for x, _ in line)
    assert [text for _, text in found["keys"]] == ["training loss, smoothed", "each step"]


def test_the_last_step_is_on_the_plot_even_where_its_loss_was_not_told():
    (mark,) = [line for line in parts(section(API, {})["curve"], "line") if line.get("class") == "mark"]
    assert mark.get("x1") == "100.00%"
    assert lines(section(API, {}))["train"][-1][0] == pytest.approx(100 * 120 / 126, abs=0.01)


def test_where_nothing_was_held_out_nothing_says_so_and_where_something_was_it_chose_nothing():
    found = section(API, {})
    assert not any("held out" in text for _, text in found["keys"])
    assert not any("held out" in name for name in found["facts"])
    found = section(API | {"n_dev": 12, "evaluations": [{"step": 120, "dev_loss": 0.7}]}, {})
    assert found["keys"][-1] == ("dev", "loss on training questions held out")
    assert found["facts"]["examples held out to measure the loss"] == 12


def test_the_tuned_model_and_its_job_are_named():
    facts = section(API, {})["facts"]
    assert (facts["tuned model"], facts["fine-tuning job"]) == ("ft:gpt-4o-mini:acme::1", "ftjob-1")


def test_a_local_training_reads_as_before():
    found = section(LOCAL, {"tokens_per_s": 1412.3})
    assert found["keys"] == [
        ("train", "training loss, smoothed"),
        ("train-raw", "each step"),
        ("dev", "loss on training questions held out to choose the checkpoint"),
    ]
    assert found["facts"] == {
        "training examples": 16,
        "examples held out to choose the checkpoint": 2,
        "optimizer steps": 10,
        "peak learning rate": "5.0e-04",
        "kept checkpoint": "step 5",
        "speed": "1,412 tokens/s",
    }
    assert "(smoothed)" in found["curve"]


def test_a_given_job_of_which_nothing_is_known_is_no_error():
    unknown = API | {"steps": [], "best_step": None, "n_steps": None, "n_train": None, "n_dev": None}
    found = section(unknown | {"n_truncated": None}, {})
    assert (found["curve"], found["keys"]) == ("", [])
    assert set(found["facts"]) == {"tuned model", "fine-tuning job"}
    assert section(None, {}) is None

"""Goal: the pages of benchmarks/links say what was measured, and what was modelled only.

Method: turns made up by hand, so that every number of the page is known.
"""

import importlib.util
import pathlib
import sys
from xml.etree import ElementTree

import pytest

LINKS = pathlib.Path(__file__).parents[2] / "benchmarks" / "links"


@pytest.fixture(scope="module")
def report():
    """benchmarks/links/report.py, by a name of its own: other benchmarks have a `report`, too."""
    sys.path[:0] = [str(LINKS), str(LINKS.parent)]
    try:
        spec = importlib.util.spec_from_file_location("links_report", LINKS / "report.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.path[:2]


def step(trainer, times, link="4 hosts of 1, 1gbit"):
    terms = {"what": "step", "link": link, "trainer": trainer}
    return terms | {"times": times, "losses": [], "sent": 4e6, "load": 1.0}


def loss(trainer, losses):
    terms = {"what": "loss", "trainer": trainer}
    return terms | {"times": [1.0], "losses": losses, "sent": 4e6, "load": 1.0}


def turns():
    falling = [2.0 - 0.1 * number for number in range(15)]
    return [
        *(step("no communication", [100.0]), step("hora", [400.0]), step("ddp", [500.0])),
        *(step("hora onebit", [150.0, 140.0, 160.0]), step("hora drop", [130.0])),
        *(loss("hora", falling), loss("ddp", falling)),
        *(loss("hora onebit", [each + 0.1 for each in falling]), loss("hora drop", [2.0] * 15)),
        {"what": "model", "link": "25gbit", "trainer": "hora onebit", "milliseconds": 20.0},
    ]


def test_seconds_to_the_loss_are_steps_to_what_float32_reaches_by_its_hundredth(report):
    results = report.Results(turns())
    assert results.target == pytest.approx(1.2 * 1.01)  # the mean of 1.3, 1.2 and 1.1
    assert results.curves["hora"].steps_to(results.target) == 100
    assert results.curves["hora onebit"].steps_to(results.target) == 110
    rows = {line.split(" | ")[0]: line for line in report.table(results, "4 hosts of 1, 1gbit")}
    assert (
        rows["| hora onebit"]
        == "| hora onebit | 4.00 | 150 (140) | 0.67 | 110 | 16.5 | 3.0 | 1.0 |"
    )
    assert rows["| hora drop"].endswith("| not reached |  |  | 1.0 |")


def test_a_modelled_step_is_the_one_without_communication_and_the_models_exchange(report):
    results = report.Results(turns())
    assert results.modelled() == {"25gbit": {"hora onebit": 120.0}}
    assert "| hora onebit | 120 | 13.2 |" in report.modelled_table(results)
    assert "25gbit, modelled: loss" in report.training_picture(results)
    assert report.modelled_table(report.Results(turns()[:-1])) == []


def test_nobody_misses_a_loss_that_float32_did_not_learn(report):
    known = [turn for turn in turns() if (turn["what"], turn["trainer"]) != ("loss", "hora")]
    results = report.Results(known)
    assert results.target is None
    assert "not reached" not in "".join(report.table(results, "4 hosts of 1, 1gbit"))
    assert "<polyline" in report.training_picture(results)


def test_a_trainer_with_a_rule_in_its_name_leaves_the_picture_well_formed(report):
    name = "hora onebit;rule=dim<=1->none"
    picture = report.training_picture(
        report.Results([*turns(), step(name, [1.0]), loss(name, [1.0] * 15)])
    )
    assert name in [text.text for text in ElementTree.fromstring(picture).iter() if text.text]


def test_a_layer_is_beside_what_its_bytes_take_and_adaptive_beside_its_rivals(report):
    def layer(trainer, ms, sent):
        terms = {"what": "layer", "link": "4 hosts of 1, 1gbit", "trainer": trainer}
        return terms | {"count": 1 << 20, "times": [ms], "losses": [], "sent": sent, "load": 1.0}

    turns = [
        *(layer("hora", 60.0, 6e6), layer("hora onebit", 9.0, 0.25e6)),
        *(layer("hora strom", 6.0, 0.2e6), layer("hora dryden", 4.0, 0.1e6)),
    ]
    results = report.Results(turns)
    assert report.layer_table(results)[-1].endswith("| 4.0 (4.0) | 1.50 |")
    assert "| hora | 6.00 | 48.0 | 60.0 (60.0) | 1.25 |" in report.wire_table(results)

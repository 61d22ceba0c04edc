"""What a study leaves in its folder: numbers that are those of `evaluate`, figures a reader can use, a report that needs nothing else."""

import json
import math
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

import simulator as sim
from devices import Cost, RRAMCrossbar, bibliography
from simulator import figures
from simulator.cli import main
from simulator.costing import cost_frame
from simulator.data import digits
from simulator.models import digits_mlp
from simulator.preparing import CALIBRATION_BATCHES, prepare
from simulator.report import summary, write_report
from simulator.results import ResultsFolder, opened
from simulator.running import StudyResult
from simulator.running import run as run_study
from simulator.study_files import load_study
from simulator.tables import headline, latex, spread, varied_table

STUDY = """
name = "tiny"
description = "Escaped: <b>&</b>"
trials = 6
seed = 3
[model]
name = "digits_mlp"
arguments = { hidden = 12 }
[data]
name = "digits"
[training]
epochs = 1
[training.noise_aware]
epochs = 1
[design]
preset = "wan_nature_2022"
adc.bits = 6
[metrics]
names = ["accuracy", "f1"]
spec = 0.3
[vary]
"design.adc.bits" = [3, 8]
"design.dac" = ["none"]
seconds = ["0 s", "1 day"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, StudyResult]]:
    place = tmp_path_factory.mktemp("report")
    (place / "study.toml").write_text(STUDY)
    study, home = load_study(str(place / "study.toml"))
    before = dict(mpl.rcParams)
    with opened(place / "out") as folder:
        folder.write("study.toml", study.resolved())
        result = run_study(prepare(study, home), folder, shown=False)
        environment = {
            "inloop": "1", "command": "inloop run study.toml", "date": "2030-01-01T00:00:00+00:00", "packages": {"torch": "2"},
            "threads": {}, "git_commit": None,
        }  # fmt: skip
        write_report(result, folder, environment)
    assert dict(mpl.rcParams) == before
    yield place / "out", result


def test_everything_is_there_and_nothing_half_written(finished: tuple[Path, StudyResult]) -> None:
    out, _ = finished
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path.parent.name != "checkpoints"}
    drawn = ["distribution", "varied_design_adc_bits", "varied_design_dac", "varied_seconds", "coverage", "energy", "latency"]
    expected = {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "pdf", "svg")}
    expected |= {f"tables/{name}.tex" for name in ("coverage", "cost", "totals", "chips_accuracy", "chips_f1")}
    expected |= {
        f"tables/varied_{path}_{metric}.tex" for path in ("design_adc_bits", "design_dac", "seconds") for metric in ("accuracy", "f1")
    }
    expected |= {
        "study.toml",
        "environment.json",
        "trials.csv",
        "trials.parquet",
        "trials.jsonl",
        "sources.bib",
        "summary.json",
        "report.html",
    }
    assert names == expected
    assert all((out / name).stat().st_size for name in names)


def test_the_trials_are_those_of_evaluate(finished: tuple[Path, StudyResult]) -> None:
    """Train, compile and evaluate by hand, without anything of the study's."""
    out, _ = finished
    data = digits()
    model = digits_mlp(seed=3, hidden=12)
    sim.fit(model, data.train_batches(64, seed=3), epochs=1, seed=3)
    design = RRAMCrossbar.preset("wan_nature_2022", adc={"bits": 6})
    calibration = [batch for batch, _ in zip(data.train_batches(256, seed=None), range(CALIBRATION_BATCHES), strict=False)]
    frame = pd.read_csv(out / "trials.csv")
    for changes, varied in (({}, None), ({"adc": {"bits": 3}}, 3)):
        chip = sim.compile(model, design.replace(**changes), example_inputs=data.test.tensors[0][:1], calibration=calibration, seed=3)  # type: ignore[union-attr]
        expected = sim.evaluate(chip, data.test_batches(), trials=6, seed=3, metrics=["accuracy", "f1"])
        chosen = frame[(frame["arm"] == "plain") & (frame["varied"].isna() if varied is None else frame["design.adc.bits"] == varied)]
        assert chosen["trial"].tolist() == list(range(6)) and set(chosen["seed"]) == {3}
        assert chosen["accuracy"].tolist() == expected.values("accuracy")
        assert chosen["f1"].tolist() == expected.values("f1")


def test_csv_and_parquet_hold_the_same_rows(finished: tuple[Path, StudyResult]) -> None:
    out, result = finished
    csv, parquet = pd.read_csv(out / "trials.csv"), pd.read_parquet(out / "trials.parquet")
    assert len(csv) == len(parquet) == 6 * 2 * 6
    assert list(csv) == ["arm", "varied", "design.adc.bits", "design.dac", "seconds", "trial", "seed", "accuracy", "f1"]
    pd.testing.assert_frame_equal(csv.fillna({"varied": ""}), parquet, check_dtype=False)
    assert parquet["design.adc.bits"].dtype.kind == "i"
    aged = csv[csv["seconds"] == 86400]
    assert set(aged["varied"]) == {"seconds"} and len(aged) == 12
    assert result.computed == 2 * 5 * 6  # 0 s is the base again


def test_both_arms_see_common_random_numbers(finished: tuple[Path, StudyResult]) -> None:
    _, result = finished
    comparison = result.comparison("accuracy")
    assert comparison is not None
    plain, trained = (np.array(result.evaluations[arm, 0].values("accuracy")) for arm in ("plain", "noise_aware"))
    assert comparison.difference.value == pytest.approx((trained - plain).mean())
    assert result.evaluations["plain", 0].reference != result.evaluations["noise_aware", 0].reference


def test_the_summary_is_strict_json_and_agrees_with_the_trials(finished: tuple[Path, StudyResult]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    out, result = finished
    found = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    frame = pd.read_csv(out / "trials.csv")
    for arm in ("plain", "noise_aware"):
        values = frame[(frame["arm"] == arm) & frame["varied"].isna()]["accuracy"]
        numbers = found["arms"][arm]["accuracy"]
        assert numbers["mean"] == pytest.approx(values.mean())
        assert numbers["worst"] == values.min()
        assert numbers["yield"]["value"] == pytest.approx((values >= 0.3).mean())
        assert numbers["low"] < numbers["mean"] < numbers["high"]
    assert [row["value"] for row in found["varied"]["design.dac"]] == [None]
    assert [row["value"] for row in found["varied"]["seconds"]] == [0, 86400]
    assert found["cost_of_one_sample"]["energy_j"]["not_given"]
    assert found["headline"] == headline(result) and found == summary(result)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_stands_alone_and_says_what_it_must(finished: tuple[Path, StudyResult]) -> None:
    out, result = finished
    page = Page((out / "report.html").read_text())
    images = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(images) == 7 and all(image.startswith("data:image/svg+xml;base64,") for image in images)
    links = [value for _, name, value in page.attributes if name == "href"]
    identifiers = {value for _, name, value in page.attributes if name == "id"}
    assert links and all(link.removeprefix("#") in identifiers for link in links)
    text = " ".join(" ".join(page.words).split())
    for words in (
        headline(result), "Paired on common random numbers", "ADC bits", "age of the chip", "the base has 6", "at least", "(partial)",
        "not given: read_voltage_volt", "Costs are partial sums", "wan2022compute",
        "this study (wan_nature_2022 has 8)", "@article{wan2022compute",
        "inloop run study.toml", "with seed 3", "git_commit none", "Escaped: <b>&</b>", "yield at 0.3", "features.1", "ReLU",
    ):  # fmt: skip
        assert words in text, words


def test_the_figures_are_of_column_width_and_embed_their_fonts(finished: tuple[Path, StudyResult]) -> None:
    from PIL import Image

    out, _ = finished
    for path in (out / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1050, path  # 3.5 inches at 300 dots an inch
            assert image.convert("L").getextrema() == (0, 255)
    for path in (out / "figures").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root.attrib["width"] == "252pt"
    for path in (out / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF") and b"/Type3" not in content


def test_figures_show_the_means_with_their_intervals(finished: tuple[Path, StudyResult]) -> None:
    _, result = finished
    axes = figures.varied(result, "design.adc.bits").axes[0]
    for arm, container in zip(result.arms, axes.containers, strict=True):
        line, _, [bars] = container.lines  # type: ignore[attr-defined]
        means = [result.evaluations[arm, place].mean("accuracy") for place in result.varied()["design.adc.bits"]]
        assert line.get_ydata() == pytest.approx([mean.value for mean in means])
        assert line.get_xdata() == pytest.approx([3, 8], abs=0.05)
        ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
        assert ends == [pytest.approx((mean.low, mean.high)) for mean in means]
    assert [tick.get_text() for tick in figures.varied(result, "seconds").axes[0].get_xticklabels()] == ["0 s", "1 day"]
    assert [tick.get_text() for tick in figures.varied(result, "design.dac").axes[0].get_xticklabels()] == ["off"]


def test_the_distribution_has_a_dot_for_every_chip(finished: tuple[Path, StudyResult]) -> None:
    _, result = finished
    axes = figures.distribution(result).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == 12  # type: ignore[arg-type]
    width = axes.get_xlim()[1] - axes.get_xlim()[0]
    for arm in result.arms:
        own = [x for line in dots if line.get_color() == figures.COLORS[arm] for x in np.asarray(line.get_xdata())]
        assert sorted(own) == pytest.approx(sorted(result.evaluations[arm, 0].values("accuracy")), abs=width / 60)


def test_equal_results_give_equal_files(finished: tuple[Path, StudyResult]) -> None:
    out, result = finished
    for name, figure in figures.draw(result).items():
        for kind in figures.FORMATS:
            assert figures.encode(figure, kind) == (out / "figures" / f"{name}.{kind}").read_bytes(), (name, kind)


def test_no_state_of_matplotlibs_is_global() -> None:
    sources = Path(figures.__file__).parent
    assert not any("pyplot" in path.read_text() for path in sources.rglob("*.py"))


def test_cost_figures_stack_terms_and_are_left_out_where_nothing_is_known() -> None:
    rows = [
        Cost(layer=layer, hardware="RRAMCrossbar", term=term, energy_j=energy)
        for layer, term, energy in (
            ("a", "ADC", 2e-12),
            ("a", "DAC", 1e-12),
            ("b", "ADC", 4e-12),
            ("b", "DAC", None),
            ("b", "cell read", None),
        )
    ]
    figure = figures.cost(cost_frame(rows), "energy_j")
    assert figure is not None
    axes = figure.axes[0]
    lengths = {(bar.get_y(), round(bar.get_x(), 9)): bar.get_width() for bar in axes.patches}  # type: ignore[attr-defined]
    assert sorted(lengths.values()) == pytest.approx([0, 1, 2, 4])
    assert lengths[-0.325, 2.0] == pytest.approx(1)  # DAC stands on ADC
    assert axes.get_xlabel() == "energy of one sample (pJ)\nwithout: cell read"
    assert figures.cost(cost_frame(rows), "latency_s") is None


def test_tables_for_latex_are_rectangular_and_escaped(finished: tuple[Path, StudyResult]) -> None:
    out, _ = finished
    for path in (out / "tables").glob("*.tex"):
        lines = path.read_text().splitlines()
        columns = len(re.fullmatch(r"\\begin{tabular}{(l+)}", lines[1])[1])  # type: ignore[index]
        cells = [line for line in lines if line.endswith(r" \\")]
        assert cells and all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in cells), path
        assert not re.search(r"(?<!\\)[%_#]", "\n".join(lines[1:])), path
    assert latex(pd.DataFrame({"a&b": ["\\"]})).splitlines()[2] == r"a\&b \\"


def test_the_sources_are_those_of_the_preset(finished: tuple[Path, StudyResult]) -> None:
    out, _ = finished
    text = (out / "sources.bib").read_text()
    cited = {key for key, entry in bibliography().items() if entry in text}
    assert cited == {"wan2022compute", "crosssim", "aihwkit", "shafiee2016isaac"}


def test_the_headline_claims_only_what_the_interval_shows(finished: tuple[Path, StudyResult], tmp_path: Path) -> None:
    _, result = finished
    frame = result.evaluations["plain", 0].frame
    shifts = {"raises it to": [0.01] * 6, "lowers it to": [-0.01, -0.02] * 3, "no difference shown": [0.01, -0.01] * 3}
    for words, shift in shifts.items():
        moved = sim.Evaluation(**{**vars(result.evaluations["noise_aware", 0]), "frame": frame.assign(accuracy=frame["accuracy"] + shift)})
        other = StudyResult(**{**vars(result), "evaluations": {**result.evaluations, ("noise_aware", 0): moved}})
        assert words in headline(other)
    assert "of 6 chips" not in headline(result) and "on 6 chips of wan_nature_2022" in headline(result)


def test_one_chip_and_broken_chips_still_make_a_report(
    finished: tuple[Path, StudyResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.report.FORMATS", ("svg",))
    _, result = finished
    for rows, value in ((1, 0.5), (6, math.nan)):
        evaluations = {
            place: sim.Evaluation(**{**vars(one), "frame": one.frame.head(rows).assign(accuracy=value)})
            for place, one in result.evaluations.items()
        }
        study = result.study.model_copy(update={"trials": rows})
        other = StudyResult(**{**vars(result), "evaluations": evaluations, "study": study})
        environment: dict[str, Any] = {"inloop": "1", "command": "c", "date": "2030-01-01", "packages": {}, "threads": {}}
        found = write_report(other, ResultsFolder(tmp_path), environment)
        json.dumps(found, allow_nan=False)
        assert "n/a" in (tmp_path / "report.html").read_text()


def test_differences_carry_their_sign(finished: tuple[Path, StudyResult]) -> None:
    _, result = finished
    comparison = result.comparison("accuracy", result.varied()["design.adc.bits"][0])
    assert comparison is not None
    text = varied_table(result, "design.adc.bits", "accuracy")["difference"][0]
    assert text == spread(comparison.difference, signed=True) and text[0] in "+-"


def test_the_console_shows_tables_a_headline_and_where_the_report_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "plain.toml"
    study.write_text(STUDY.replace("trials = 6", "trials = 2").replace("[training.noise_aware]\nepochs = 1\n", "").split("[vary]")[0])
    assert main(["run", str(study), "--out", str(tmp_path / "out")]) == 0
    out, errors = capfd.readouterr()
    assert errors == ""
    assert "tiny: 2 chips" in out and "digits_mlp has accuracy" in out and "Only 2 chips were measured" in out
    assert out.splitlines()[-1] == f"2 trials computed; report: {tmp_path / 'out' / 'report.html'}"
    assert "Noise-aware" not in (tmp_path / "out" / "report.html").read_text()
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__ and environment["python"] == sys.version.split()[0]

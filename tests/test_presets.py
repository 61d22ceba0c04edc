"""Presets: finding them, building designs of them, their sources, and the bibliography."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from devices.catalog import Source, bibliography, build_preset, presets, read_preset, sources_of, unsourced_fields
from devices.design import Design, DesignError


class Part(Design):
    bits: int = Field(default=8, ge=1, le=16)
    energy_j: float | None = Field(default=None, gt=0)


class Whole(Design):
    rows: int = Field(ge=1)
    part: Part | None = Part(bits=10)
    levels: tuple[float, ...] = ()
    name: str = ""


ALPHA = """
type = "test_presets:Whole"
description = "the first"
[design]
rows = 4
name = "a text needs no source"
part = {bits = 6, energy_j = "2 fJ"}
levels = [1.0, 2.5]
[sources]
rows = {cite = "key2022word", where = "Table 1"}
"part.bits" = "read off the photograph"
part.energy_j = "other2021word"
"""
BETA = 'type = "test_presets:Part"\n[design]\nbits = 3\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in (("one/presets/alpha_2022", ALPHA), ("two/deep/presets/beta_2021", BETA), ("two/not_a_preset", "type = 3")):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def error_of(build: Callable[[], object]) -> str:
    with pytest.raises(DesignError) as error:
        build()
    text = str(error.value)
    assert "\n" not in text
    return text


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


class TestFinding:
    def test_list(self, root: Path) -> None:
        alpha, beta = presets(root)
        assert (alpha.name, alpha.type, alpha.description) == ("alpha_2022", "test_presets:Whole", "the first")
        assert alpha.path == root / "one/presets/alpha_2022.toml"
        assert (beta.name, beta.description, beta.sources) == ("beta_2021", "", {})

    def test_sources(self, root: Path) -> None:
        assert sources_of("alpha_2022", root) == {
            "rows": Source(cite="key2022word", where="Table 1"),
            "part.bits": Source(where="read off the photograph"),
            "part.energy_j": Source(cite="other2021word"),
        }

    def test_numbers_without_a_source(self, root: Path) -> None:
        assert unsourced_fields("alpha_2022", root) == ["levels"]
        assert unsourced_fields("beta_2021", root) == ["bits"]

    def test_a_source_covers_what_is_below_it(self, tmp_path: Path) -> None:
        text = BETA.replace("test_presets:Part", "test_presets:Whole").replace("bits = 3", "rows = 1\npart = {bits = 3, energy_j = '1 fJ'}")
        assert unsourced_fields(write(tmp_path, text + "[sources]\nrows = 'key'\npart = 'key'")) == []
        assert unsourced_fields(write(tmp_path, text + "[sources]\nrows = 'key'")) == ["part.bits", "part.energy_j"]

    def test_nearest_name(self, root: Path) -> None:
        assert error_of(lambda: read_preset("alfa_2022", root)) == (
            "preset `alfa_2022` must be one that exists or a path that ends in .toml, but is neither; "
            "did you mean `alpha_2022`? List them with `inloop presets`"
        )
        assert error_of(lambda: read_preset("qqq", root)).endswith("but is neither; list them with `inloop presets`")

    def test_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, BETA)
        assert read_preset(path)[0].name == "mine"
        monkeypatch.chdir(tmp_path)
        assert Part.preset("mine.toml", bits=5) == Part(bits=5)
        assert error_of(lambda: Part.preset("other.toml")).startswith("preset `other.toml` must be a file that exists, but there is none; ")

    def test_a_name_goes_before_a_path(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(root / "one" / "presets", ALPHA, "twin.toml.toml")
        write(root, BETA, "twin.toml")
        monkeypatch.chdir(root)
        assert read_preset("twin.toml", root)[0].type == "test_presets:Whole"
        assert read_preset("./twin.toml", root)[0].type == "test_presets:Part"

    def test_a_path_must_say_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, BETA, "mine")
        monkeypatch.chdir(tmp_path)
        assert "a path that ends in .toml" in error_of(lambda: read_preset("mine"))

    def test_one_name_twice(self, root: Path) -> None:
        write(root / "one" / "presets", BETA, "beta_2021.toml")
        line = error_of(lambda: presets(root))
        assert line.startswith("preset name `beta_2021` must be used once")
        assert str(root / "two/deep/presets/beta_2021.toml") in line


class TestBuilding:
    def test_design(self, root: Path) -> None:
        expected = Whole(rows=4, name="a text needs no source", part=Part(bits=6, energy_j=2e-15), levels=(1.0, 2.5))
        assert build_preset(Whole, "alpha_2022", {}, root) == expected
        assert build_preset(Design, "alpha_2022", {}, root) == expected

    def test_overrides(self, root: Path) -> None:
        base = build_preset(Whole, "alpha_2022", {}, root)
        assert build_preset(Whole, "alpha_2022", {"part": {"bits": 4}}, root) == base.replace(part=Part(bits=4, energy_j=2e-15))
        assert build_preset(Whole, "alpha_2022", {"part": Part(bits=4)}, root).part == Part(bits=4)
        assert build_preset(Whole, "alpha_2022", {"part": None}, root).part is None

    def test_overrides_merge_with_defaults(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'type = "test_presets:Whole"\n[design]\nrows = 1\n')
        assert Whole.preset(path, part={"energy_j": "1 fJ"}).part == Part(bits=10, energy_j=1e-15)

    def test_wrong_class(self, root: Path) -> None:
        line = error_of(lambda: build_preset(Part, "alpha_2022", {}, root))
        assert line.startswith("Part: preset `alpha_2022` must describe a Part, but describes a Whole; use Whole.preset('alpha_2022')")

    def test_wrong_override_is_not_blamed_on_the_file(self, root: Path) -> None:
        line = error_of(lambda: build_preset(Whole, "alpha_2022", {"part": {"bitz": 4}}, root))
        assert line == "Whole: `part.bitz` must be a field of Part, but is unknown; did you mean `bits`?"

    def test_wrong_field_names_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'type = "test_presets:Whole"\n[design]\nrows = 0\n')
        assert error_of(lambda: Whole.preset(path)) == (
            f"Whole: `rows` must be at least 1, but got 0; choose a value in that range (preset {path})"
        )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rows = ", "must be a TOML file that can be read, but is not"),
        ("[design]\nrows = 1", "`type` must be a text such as 'package.module:Class', but got None; name the class"),
        ('type = "test_presets:Nothing"', "`type` must name a subclass of Design, but got 'test_presets:Nothing'; "),
        ('type = "no_such_module:A"', "`type` must name a module that can be imported, but got 'no_such_module:A'"),
        (
            BETA + "[source]\nbits = 'x'",
            "key `source` must be one of type, description, design, sources, but is unknown; did you mean `sources`?",
        ),
        (BETA + "type = 'a:b'", "`design` must not contain `type`"),
        ("type = 'a:b'\ndescription = 3", "`description` must be a text, but got 3"),
        ("type = 'a:b'\ndesign = 3", "`design` must be a table, but got 3"),
        ("type = 'a:b'\nsources = 3", "`sources` must be a table, but got 3"),
        (BETA + "[sources]\nbitz = 'x'", "source of `bitz` must be that of a field in [design], but there is none; did you mean `bits`?"),
        (BETA + "[sources]\nbits = 3", "source of `bits` must be a text or {cite ="),
        (BETA + "[sources]\nbits = ''", "source of `bits` must be a text or {cite ="),
        (BETA + "[sources]\nbits = {cite = 'x', page = '3'}", "source of `bits` must be a text or {cite ="),
        (BETA + "[sources]\nbits = {cite = 3}", "source of `bits` must be a text or {cite ="),
    ],
)
def test_a_file_that_is_no_preset(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, text)
    error = error_of(lambda: Design.preset(path))
    assert line in error
    assert str(path) in error


class TestBibliography:
    def test_entries(self, tmp_path: Path) -> None:
        first = "@article{key2022word,\n  title = {A {Nested} title, with \\} in it},\n  year = 2022\n}"
        path = write(tmp_path, f"% a comment\n@comment{{ignored, x}}\n{first}\n\n@misc{{ other , title={{B}}}}\n", "references.bib")
        assert bibliography(path) == {"key2022word": first, "other": "@misc{ other , title={B}}"}

    def test_one_key_twice(self, tmp_path: Path) -> None:
        path = write(tmp_path, "@misc{a, title={A}}\n@misc{a, title={B}}", "references.bib")
        assert "key `a` must occur once" in error_of(lambda: bibliography(path))

    def test_an_open_entry(self, tmp_path: Path) -> None:
        path = write(tmp_path, "@misc{a, title={A}", "references.bib")
        assert "entry `a` must end in a closing brace" in error_of(lambda: bibliography(path))


@pytest.mark.parametrize("name", [info.name for info in presets()])
class TestPackagedPresets:
    def test_builds(self, name: str) -> None:
        design = Design.preset(name)
        assert type(design).preset(name) == design
        assert Design.from_dict(design.to_toml_dict()) == design

    def test_every_number_has_a_source(self, name: str) -> None:
        assert unsourced_fields(name) == []

    def test_every_source_is_in_the_bibliography(self, name: str) -> None:
        assert {source.cite for source in sources_of(name).values()} - {""} <= bibliography().keys()

    def test_describes_itself_in_a_line(self, name: str) -> None:
        description = read_preset(name)[0].description
        assert description
        assert "\n" not in description

"""All of a report, once, from a run of two small scenarios; and what two runs differ by."""

import html.parser
import io
import json
import lzma
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.report import __main__ as command
from benchmarks.report import raw, setting, tables, words
from benchmarks.report.build import ASKED_FOR, Places, build, places_in
from benchmarks.report.difference import compare, document_of
from benchmarks.report.figures import style
from benchmarks.report.figures.every import KINDS
from benchmarks.report.narrative import Given, NarrativeError, compose
from benchmarks.report.reading import read
from benchmarks.report.repository import ROOT
from benchmarks.report.results import effect_row
from tests import runs
from tests.runs import MadeUp

PAIR = {"A": runs.noisy(9), "B": runs.noisy(12)}
NARRATIVE = ROOT / "reports" / "narrative.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "20261130T080000Z-0a1b2c3d"
    return runs.write(
        folder,
        [
            MadeUp("peak", PAIR, blocks=7, void=[(2, "B")], load_model="open, Poisson, ramp up and down"),
            MadeUp("steps", PAIR, "rate=600", blocks=1, noise_blocks=0),
            MadeUp("more", PAIR, "servers=2", rate=300, blocks=1, noise_blocks=0),
        ],
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Places:
    found = places_in(tmp_path_factory.mktemp("root"))
    found.reports.mkdir()
    found.benchmarks.mkdir()
    shutil.copy(NARRATIVE, found.narrative)
    with pytest.MonkeyPatch.context() as coarse:
        coarse.setattr(style, "DPI", 80)  # to look at nothing
        build(run, found)
    return found


@pytest.fixture(scope="module")
def document(places: Places) -> dict[str, Any]:
    return json.loads((places.reports / "results.json").read_text())  # type: ignore[no-any-return]


def given(document: dict[str, Any]) -> Given:
    return Given(words.words(document), words.lists(document), tables.all_tables(document), document["figures"], KINDS)


def test_everything_that_was_asked_for_is_there(places: Places, document: dict[str, Any]) -> None:
    pdf, page = places.reports / "ANALYSIS_REPORT.pdf", places.reports / "report.html"
    assert pdf.read_bytes().startswith(b"%PDF")
    for written in (pdf, page, places.tests / "summary.json"):  # says which run it is of, where a program can read it
        assert document["run"]["name"].encode() in written.read_bytes()
    for figure in document["figures"]:
        assert {path.suffix for path in (places.reports / "figures").glob(f"{figure['name']}.*")} == {".png", ".svg"}
    for name in ASKED_FOR:
        with Image.open(places.benchmarks / name) as picture:
            assert picture.width > 400
    assert {path.name for path in places.tests.iterdir()} == {"peak.csv", "summary.json"}
    assert len((places.tests / "peak.csv").read_text().splitlines()) == 1 + len(
        [row for row in document["verdicts"] if row["case"] == "peak"]
    )


def test_a_caption_says_open_or_closed_and_accepted_or_decided(document: dict[str, Any]) -> None:
    kinds = {figure["kind"] for figure in document["figures"]}
    assert kinds == KINDS - {"oversell"}  # no lab beside this run
    for figure in document["figures"]:
        assert figure["alt"]
        assert "open" in figure["caption"].lower() or "closed" in figure["caption"].lower(), figure["kind"]
        if figure["kind"] not in {"generator_lag", "outcomes"}:
            assert "decided" in figure["caption"], figure["kind"]


class Page(html.parser.HTMLParser):
    """What a reader of the page's source would check."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes, self.elsewhere, self.alts, self.text = 0, list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        assert tag not in {"script", "link", "iframe"}
        if tag == "th":
            assert of.get("scope") in {"col", "row"}
            self.scopes += 1
        for name in ("src", "href"):
            target = of.get(name) or ""
            if target and not target.startswith(("#", "data:image/png;base64,")):
                self.elsewhere.append(target)
        if tag == "img":
            self.alts.append(of.get("alt") or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_opens_without_a_network_and_says_every_verdict(places: Places, document: dict[str, Any]) -> None:
    page = Page()
    page.feed((places.reports / "report.html").read_text())
    assert page.elsewhere == []
    assert page.scopes > 50
    assert len(page.alts) == len(document["figures"])
    assert all(page.alts)
    said = " ".join(page.text)
    assert not tables.undecidable(document)  # of whom few words are made
    for row in document["verdicts"]:
        assert tables.effect_text(row) in said
        assert row["reason"] in said
    assert "{{" not in said
    assert "`" not in said  # a mark within another is none


def test_sentences_take_the_room_that_is_left_and_short_tables_stay_whole(document: dict[str, Any]) -> None:
    blocks = [block for block in compose(NARRATIVE.read_text(), given(document)) if block["kind"] == "table"]
    of = {block["name"]: setting.laid_out(block, []) for block in blocks}
    for name, block in of.items():
        above = {0} if block["grouped"] else set()
        for row in block["rows"]:
            long = {column for column, cell in enumerate(row) if len(cell) > 45}
            assert long <= above | {block["wide"]}, (name, row)
        assert block["wide"] not in block["numbers"], name
    assert {name for name, block in of.items() if block["grouped"]} == {"verdicts", "scenarios"}
    assert of["environment"]["whole"]
    longer = {**blocks[0], "rows": blocks[0]["rows"] * 50}
    assert not setting.laid_out(longer, [])["whole"]


def test_equal_blocks_are_an_equal_page(places: Places, document: dict[str, Any], tmp_path: Path) -> None:
    blocks = compose(NARRATIVE.read_text(), given(document))
    setting.set_html(blocks, document, places.reports / "figures", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (places.reports / "report.html").read_bytes()


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        figure = style.canvas(2, "A title")
        figure.subplots().plot([1, 2], [3, 4], label="a line")
        (tmp_path / name).mkdir()
        drawing = style.Drawing("kind", "name", "A title", "caption", "alt", figure)
        written.append([path.read_bytes() for path in style.save(drawing, tmp_path / name)])
    assert written[0] == written[1]


def test_no_number_is_typed_that_a_run_decides(document: dict[str, Any]) -> None:
    """Another run, another text: what is computed is nowhere in the narrative."""
    text = NARRATIVE.read_text()
    for name, word in words.words(document).items():
        if name.startswith("lines."):
            continue  # of the repository, and not of the run
        if word and any(letter.isdigit() for letter in word) and len(word) > 2:
            assert word not in text, name


def test_raw_files_can_be_had_from_the_archive(places: Places, run: Path) -> None:
    (archive,) = (places.reports / "results").iterdir()
    with tarfile.open(archive) as packed:
        names = packed.getnames()
        member = packed.extractfile(f"{run.name}/trials/peak-1-0-A/requests.csv.xz")
        assert member is not None
        assert lzma.decompress(member.read()).startswith(b"seq,shopper,sku,")
    assert f"{run.name}/run.json.xz" in names
    assert io.BytesIO(archive.read_bytes()).getbuffer().nbytes < 10 << 20


def test_what_finds_no_room_is_left_out_last_and_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "ARCHIVE_BYTES_MAX", 300_000)
    left_out = raw.pack(read(run), tmp_path / "small.tar")
    assert left_out
    assert {Path(name).name for name in left_out} <= set(raw.LARGE)


def test_a_narrative_with_a_hole_ends_before_anything_is_written(tmp_path: Path) -> None:
    run = runs.write(tmp_path / "run", [MadeUp("peak", PAIR, blocks=1, noise_blocks=0)])
    places = places_in(tmp_path)
    places.reports.mkdir()
    places.narrative.write_text("# Title\n\n{{no_such_number}}\n")
    with pytest.raises(NarrativeError, match="no_such_number"):
        build(run, places)
    assert [path.name for path in places.reports.iterdir()] == ["narrative.md"]


def test_the_narrative_fills_for_a_run_that_decides_nothing(document: dict[str, Any]) -> None:
    few = [{**row, "winner": "inconclusive", **effect_row(None)} for row in document["verdicts"]]
    small = {**document, "verdicts": few, "series": [], "levels": [], "roles": [], "gates": []}
    said = json.dumps(compose(NARRATIVE.read_text(), given(small)))
    assert "Nothing is decided" in said


def test_the_narrative_says_who_is_disqualified(document: dict[str, Any]) -> None:
    wrong = {"gevent_rabbit": "gevent_rabbit sold 3 too many in peak-1-1-B"}
    assert "Nobody wins: gevent_rabbit sold 3 too many in peak-1-1-B." in json.dumps(
        compose(NARRATIVE.read_text(), given({**document, "wrong": wrong}))
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(1494304.25, "1,490,000"), (41.27, "41.3"), (0.05123, "0.0512"), (0.0, "0"), (999.6, "1,000"), (None, "-")],
)
def test_numbers_have_the_digits_that_mean_something(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def slower(document: dict[str, Any], by: float) -> dict[str, Any]:
    """The same run, with every median of A so much larger."""
    changed = json.loads(json.dumps(document))
    for trial in changed["trials"]:
        if trial["label"] == "A" and trial["case"] == "peak":
            trial["values"]["response_p50"]["number"] *= by
    changed["run"]["commit"] = "other"
    return changed  # type: ignore[no-any-return]


def test_a_run_is_no_different_from_itself(places: Places) -> None:
    document = document_of(places.reports / "results.json")
    found = compare(document, document)
    assert {row["verdict"] for row in found["rows"] if row["p_holm"] is not None} == {"the same"}
    assert found["circumstances"] == []


def test_what_changed_by_more_than_noise_is_found(document: dict[str, Any]) -> None:
    found = compare(document, slower(document, 1.4))
    changed = [row for row in found["rows"] if row["verdict"] == "changed"]
    assert [(row["case"], row["label"], row["metric"], row["is_better"]) for row in changed] == [
        ("peak", "A", "response_p50", False)
    ]
    assert changed[0]["change"] == pytest.approx(1.4, abs=0.03)
    assert [one["what"] for one in found["circumstances"]] == ["commit"]


def test_what_changed_by_less_than_noise_or_what_matters_is_not(document: dict[str, Any]) -> None:
    found = compare(document, slower(document, 1.02))
    assert not [row for row in found["rows"] if row["verdict"] == "changed"]


def test_three_trials_against_three_say_nothing(document: dict[str, Any]) -> None:
    rows = compare(document, slower(document, 3))["rows"]
    assert {row["verdict"] for row in rows if min(row["trials"]) < 4} == {"undecided"}


def test_the_commands_exit_codes_are_a_promise(
    places: Places, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = places.reports / "results.json", tmp_path / "other.json"
    other.write_text(json.dumps(slower(document, 1.4)))
    assert command.main(["diff", str(mine), str(mine)]) == 0
    assert command.main(["diff", str(mine), str(other)]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["table"]["rows"][0][-1] == "changed, worse"
    assert command.main(["diff", str(mine), str(tmp_path / "none")]) == 3
    assert command.main(["build", str(tmp_path), str(tmp_path)]) == 3
    assert "none is neither a run's folder nor a results.json" in capsys.readouterr().err

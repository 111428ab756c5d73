"""The HTML report: complete in itself, safe against its content, the same bytes for the same content."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml_provider.steps.figures import BLUE, ORANGE, drawing
from airflow_ml_provider.steps.reports import Badge, Report, Share, format_value

_NOT_CLOSED = {"meta", "br"}


class _Page(HTMLParser):
    """The elements and the text of a page; fails on elements that are not closed in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.classes: list[str] = []
        self.said = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            if name == "id":
                self.ids.append(value or "")
            if name == "class":
                self.classes += (value or "").split()
            if name in ("src", "href", "xlink:href", "style", "clip-path"):
                self.references.append(value or "")
        if tag not in _NOT_CLOSED:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _NOT_CLOSED:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def _full_report(note: str = "a note") -> bytes:
    report = Report("Drift of flight_delays", "one day")
    report.verdict("Drifted", good=False, details=["the score moved"])
    report.facts({"rows": 899, "model": "flight_delays/3"})
    report.heading("Features")
    report.text(note)
    report.table(["feature", "PSI", "verdict"], [["temp", 0.31, Badge("drifted", good=False)]], "by feature")
    for _ in range(2):
        with drawing(columns=2) as (figure, (left, right)):
            left.plot([0, 1], [0, 1], color=BLUE, marker="o", label=note)
            left.set_xlim(0, 0.5)
            left.legend()
            right.bar(["a", note], [1, 2], color=ORANGE)
        report.figure(figure, f"a figure with {note}")
    return report.html()


def test_a_report_is_one_page_that_asks_for_nothing_else() -> None:
    page = _Page(_full_report())

    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert all(
        re.findall(r"url\((.)", text) in ([], ["#"]) and not text.startswith(("http", "//", "data:"))
        for text in page.references
    )
    assert b"default-src 'none'" in _full_report()


def test_equal_content_gives_equal_bytes_and_other_content_others() -> None:
    assert _full_report() == _full_report()
    assert _full_report() != _full_report("another note")


def test_figures_on_one_page_share_no_id_and_find_their_own_parts() -> None:
    page = _Page(_full_report())

    assert len(page.ids) == len(set(page.ids))
    wanted = [name for text in page.references for name in re.findall(r"url\(#([^)]+)\)", text)]
    wanted += [text[1:] for text in page.references if text.startswith("#")]
    assert wanted
    assert set(wanted) <= set(page.ids)


def test_figures_take_their_colours_from_the_page_so_that_they_follow_dark_mode() -> None:
    page = _full_report().decode()
    body = page[page.index("<main>") :]

    assert "var(--blue)" in body
    assert "var(--orange)" in body
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", body) == []
    declared = set(re.findall(r"--([a-z-]+):", page))
    assert set(re.findall(r"var\(--([a-z-]+)\)", page)) <= declared


def test_drawing_leaves_the_users_own_matplotlib_settings_alone() -> None:
    before = dict(mpl.rcParams)
    _full_report()
    assert dict(mpl.rcParams) == before


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cc"]), min_size=1, max_size=40))
def test_any_text_is_shown_as_it_is_and_never_becomes_markup(text: str) -> None:
    report = Report(text, text)
    report.verdict(text, good=None, details=[text])
    report.facts({text: text})
    report.heading(text)
    report.text(text)
    report.table([text], [[text], [Badge(text)]], text)

    page = _Page(report.html())

    shown = text.encode("utf-8", errors="backslashreplace").decode()
    assert page.said.count(shown) >= 9
    plain = Report("x", "x")
    plain.verdict("x", good=None, details=["x"])
    plain.facts({"x": "x"})
    plain.heading("x")
    if text.strip():
        plain.text("x")
    plain.table(["x"], [["x"], [Badge("x")]], "x")
    assert page.tags == _Page(plain.html()).tags


def test_markup_in_the_labels_of_a_figure_stays_text() -> None:
    page = _Page(_full_report('<script>alert("1")</script> & $x_1$'))

    assert "script" not in page.tags
    assert page.said.count('<script>alert("1")</script> & $x_1$') == 7


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_control_character_in_a_label_does_not_break_the_figure() -> None:
    page = _Page(_full_report("bell\x07 and escape\x1b"))

    assert "bell\N{REPLACEMENT CHARACTER} and escape\N{REPLACEMENT CHARACTER}" in page.said


def test_columns_of_numbers_are_aligned_on_the_right_and_others_are_not() -> None:
    report = Report("t")
    report.table(
        ["name", "rows", "share", "nothing", "flag"],
        [["a", 1, 0.5, None, True], ["b", None, 2.0, None, False]],
    )
    page = report.html().decode()

    heads = re.findall(r"<th( class=\"number\")?>(\w+)</th>", page)
    assert [name for kind, name in heads if kind] == ["rows", "share"]


def test_a_row_that_does_not_fit_the_headers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row of 3 cells in a table of 2 columns: \['a', 1, 2\]"):
        Report("t").table(["feature", "PSI"], [["a", 1, 2]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (336776, "336,776"),
        (0.76182, "0.7618"),
        (12.345, "12.35"),
        (123456.7, "123,457"),
        (3.2e-9, "3.20e-09"),
        (0.0, "0.0000"),
        (Share(0.0479), "4.8%"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
        (None, "–"),
        (True, "yes"),
        (["a", 2], "a, 2"),
        (datetime(2013, 6, 1, 12, tzinfo=UTC), "2013-06-01 12:00 UTC"),
        (datetime(2013, 6, 1, tzinfo=UTC).date(), "2013-06-01"),
    ],
)
def test_values_are_written_as_people_read_them(value: object, shown: str) -> None:
    assert format_value(value) == shown


def test_a_verdict_is_green_red_or_grey() -> None:
    for good, tone in ((True, "good"), (False, "bad"), (None, "plain")):
        report = Report("t")
        report.verdict("decided", good)
        assert tone in _Page(report.html()).classes

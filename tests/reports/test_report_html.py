"""The page is complete, well formed, self-contained, and treats every name as text."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import tomllib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydvae.config import cifar10, from_dict, to_dict
from raydvae.reports.html import SHOWN_FILES, ReportData, _median, duration, number, render, size
from raydvae.reports.samples import Samples

VOID = {"meta", "img", "br", "hr", "link", "input"}
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "base", "form", "image", "foreignobject"}


class Page(HTMLParser):
    """Checks nesting while parsing; keeps elements, text and ids."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is repeated"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check(page: str) -> Page:
    """Parse ``page`` and assert what holds for every report."""
    parsed = Page(page)
    names = [tag for tag, _ in parsed.elements]
    assert not FORBIDDEN & set(names)
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name)
    styles = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert len(styles) == 1 and "@import" not in styles[0] and "url(" not in styles[0]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | {u["href"][1:] for u in parsed.all("use") if u["href"]}
    used |= {attributes["aria-labelledby"] for attributes in parsed.all("section")}
    assert used <= set(ids)
    assert all(image.get("alt") for image in parsed.all("img"))
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in parsed.all("svg"))
    assert all(cell.get("scope") in ("col", "row") for cell in parsed.all("th"))
    policy = next(meta for meta in parsed.all("meta") if meta.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert len(page.encode()) < 3e6
    return parsed


def make_samples(classes: int, each: int, side: int) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, classes * each, side, side, 3), dtype=np.uint8)
    return Samples(
        x0=images[0],
        x1=images[1],
        x3=images[2],
        p_hat=rng.normal(size=images[0].shape).astype(np.float32),
        labels=np.repeat(np.arange(classes), each).astype(np.int64),
        row_ids=[f"train.parquet#{row}" for row in range(classes * each)],
    )


def epochs(count: int, psnr: float, kld: float) -> list[dict[str, float]]:
    return [
        {"epoch": e, "distortion": 0.01, "residual": 0.004, "kld": kld, "psnr": psnr - 5 / (e + 1) + 5 / count}
        | {"psnr_sum": psnr + 2, "loss": 0.0625, "amplitude": 0.0005, "grad_norm": 0.3, "lr": 0.005}
        for e in range(count)
    ]


def make(**changes: Any) -> ReportData:
    names = ["cat", "dog", "frog"]
    run = {
        "format": 1,
        "kind": "purify",
        "config": to_dict(cifar10()),
        "source": {"uri": "s3://bucket/set", "files": [["a.parquet", 2048, 12345, "f00d"]], "rows": 12345},
        "classes": {"count": 3, "names": names},
        "versions": {"raydvae": "0.1.0", "torch": "9.8.7"},
    }
    data = ReportData(
        title="Three animals",
        run=run,
        stages={"stage1": epochs(8, 21.25, 1.0), "stage2": epochs(8, 26.5, 3.0)},
        counts={"rows_in": 12345, "rows_out": 12340, "rows_rejected": 5, "units": 13, "classes": 3},
        rejected=[("cannot be decoded: cut", 3, "a.parquet#7"), ("label 9 is outside", 2, "a.parquet#11")],
        timings={"stage1": 754.0, "pass1": 12.5, "stage2": 0.25},
        speeds={"stage1": 8123.0, "pass1": 987.0},
        psnr_histogram=([20.0, 25.0, 30.0, 35.0], [10, 80, 10]),
        p_norms={name: (1.0 + place, 0.125, 4115) for place, name in enumerate(names)},
        samples=make_samples(3, 2, 32),
        accuracies={"clean": 94.5, "poisoned": 17.25, "purified": 91.5},
    )
    return dataclasses.replace(data, **changes)


@pytest.fixture(scope="module")
def usual() -> str:
    return render(make())


def test_everything_given_is_told(usual: str) -> None:
    text = check(usual).text
    for told in (
        "Three animals", "12,345 images of 3 classes went in; 12,340 purified images came out, and 5 were set aside",
        "nothing was lost", "94.5", "17.2", "91.5", "The poison cost 77.2 points of accuracy; purification won back 74.2",
        "cannot be decoded: cut", "a.parquet#7", "label 9 is outside", "21.2 dB is inside the window of 20–22 dB",
        "26.5 dB is below the window of 28–30 dB. Raise stage2.loss.kld_target (now 3)", "ends at 21.25 dB",
        "ends at 3.00", "median 27.5 dB", "12 min 34 s", "8,123", "12.50", "s3://bucket/set", "f00d", "2.0 KiB",
        "9.8.7", "cat", "3.00", "0.125", "4,115", "0.0625", "paper finds about 0.7 to 1.8",
    ):  # fmt: skip
        assert told in text, told


def test_no_address_of_another_place(usual: str) -> None:
    assert "http:" not in usual and "https:" not in usual
    plain = check(render(make(title="see https://example.org/x")))
    assert "see https://example.org/x" in plain.text


def test_the_configuration_can_be_taken_from_the_page(usual: str) -> None:
    page = check(usual)
    listing = next(text for text in page.texts if "[stage1.model]" in text)
    assert from_dict(cifar10(), tomllib.loads(listing)) == cifar10()


def test_images_of_the_page_are_the_samples(usual: str) -> None:
    samples = make().samples
    assert samples is not None
    page = check(usual)
    images = page.all("img")
    assert len(images) == 3 * 4
    frog = next(image for image in images if (image["alt"] or "").startswith("Output, class frog"))
    assert "train.parquet#4, train.parquet#5" in (frog["alt"] or "")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode((frog["src"] or "").split(",")[1]))))
    np.testing.assert_array_equal(sheet[:, :32, :3], samples.x3[4])
    np.testing.assert_array_equal(sheet[:, -32:, :3], samples.x3[5])


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}$x_{$--></svg>"


def test_hostile_names_stay_text() -> None:
    run = make().run | {
        "classes": {"count": 3, "names": [HOSTILE, "b", "c"]},
        "versions": {HOSTILE: HOSTILE},
        "source": {"uri": HOSTILE, "files": [[HOSTILE, 1, 1, HOSTILE]], "rows": 1},
    }
    run["config"] = run["config"] | {"data": run["config"]["data"] | {"image_column": HOSTILE}}
    samples = dataclasses.replace(make_samples(3, 2, 32), row_ids=[HOSTILE] * 6)
    page = check(
        render(
            make(
                title=HOSTILE, run=run, samples=samples, rejected=[(HOSTILE, 5, HOSTILE)],
                p_norms={HOSTILE: (1.0, 0.1, 1), "</style>": (1.0, 0.1, 1)}, timings={HOSTILE: 1.0},
                stages={"stage1": epochs(2, 21, 1), "stage2": []},
            )
        )
    )  # fmt: skip
    assert page.text.count(HOSTILE) >= 9


def test_key_in_an_address_is_not_shown() -> None:
    run = make().run
    page = render(make(run=run | {"source": run["source"] | {"uri": "ftp://user:secret@host/a@b"}}))
    assert "secret" not in page and "ftp://***@host/a@b" in page


def test_text_that_is_no_unicode() -> None:
    page = render(make(rejected=[("bad", 5, "file\udcff.parquet#1")]))
    assert r"file\xff.parquet#1" in page and page.encode()


def test_signs_that_rule_a_terminal_or_the_direction_are_escapes() -> None:
    name = "x\x1b[31m\u202e\u2066\x00y"
    run = make().run | {"classes": {"count": 3, "names": [name, "b", "c"]}}
    run["source"] = {"uri": name, "files": [[name, 1, 1, name]], "rows": 1}
    page = render(make(title=name, run=run, rejected=[(name, 5, name)], p_norms={name: (1.0, 0.1, 1)}))
    assert not {"\x1b", "\u202e", "\u2066", "\x00"} & set(page)
    assert page.count(r"x\x1b[31m\u202e\u2066\x00y") >= 6


def test_least() -> None:
    page = check(
        render(
            make(
                samples=None, rejected=[], accuracies=None, p_norms={}, psnr_histogram=([0.0, 1.0], [0]), timings={},
                speeds={}, stages={"stage1": [], "stage2": []},
                counts={"rows_in": 1, "rows_out": 1, "rows_rejected": 0, "units": 1, "classes": 1},
            )
        )
    )  # fmt: skip
    for told in (
        "1 image of 1 class went in; 1 purified image came out, and none was set aside", "No row was rejected",
        "No sample images were kept", "No epoch was recorded", "No image was compared", "No perturbation was measured",
    ):  # fmt: skip
        assert told in page.text, told
    assert "Does a classifier learn again?" not in page.text


def test_one_epoch_and_a_plain_vae() -> None:
    rows = [{"epoch": 0, "psnr": 21.0, "kld": 1.0, "loss": 0.5}]
    page = check(render(make(stages={"stage1": rows, "stage2": rows})))
    assert "21.0 dB is inside the window" in page.text and "residual" not in page.text


def test_values_that_are_not_finite() -> None:
    rows = [*epochs(3, 21.0, 1.0), {"epoch": 3, "psnr": math.inf, "kld": math.nan, "loss": math.inf}]
    page = check(
        render(
            make(
                stages={"stage1": rows, "stage2": [rows[-1]]}, psnr_histogram=([20.0, 30.0, math.inf], [1, 7]),
                p_norms={"cat": (math.nan, math.nan, 0), "dog": (1.5, math.inf, 2)},
                accuracies={"clean": 90.0, "poisoned": math.nan, "purified": 80.0},
            )
        )
    )  # fmt: skip
    assert "There is no final PSNR" in page.text and "∞" in page.text and "n/a" in page.text
    assert "7 images beyond the finite range" in page.text
    spoken = " ".join(svg["aria-label"] or "" for svg in page.all("svg"))
    assert not re.findall(r"\b(nan|inf)\b", page.text.lower() + spoken)


def test_hundred_classes_of_large_images() -> None:
    run = make().run | {"classes": {"count": 100, "names": None}}
    page = check(
        render(
            make(
                run=run, samples=make_samples(12, 2, 224), counts=make().counts | {"classes": 100},
                p_norms={f"class {place}": (1.0 + place / 100, 0.1, 5) for place in range(100)},
                stages={"stage1": epochs(1000, 21, 1), "stage2": epochs(1000, 29, 3)},
            )
        )
    )  # fmt: skip
    assert len(page.all("img")) == 10 * 4
    assert "10 of 100 classes are shown" in page.text and "120 of 1,000 epochs" in page.text
    assert "Shortest: class 0 (1.00); longest: class 99 (1.99)" in page.text


def test_many_files_and_reasons() -> None:
    run = make().run
    files = [[f"part-{place}.parquet", 1, 1, "0"] for place in range(1234)]
    reasons = [(f"reason {place}", 1, "x") for place in range(60)]
    page = check(render(make(run=run | {"source": run["source"] | {"files": files}}, rejected=reasons)))
    assert f"part-{SHOWN_FILES - 1}.parquet" in page.text and f"part-{SHOWN_FILES}.parquet" not in page.text
    assert "And 1,214 more files" in page.text and "in 1,234 files" in page.text and "And 10 rarer reasons" in page.text


def test_lost_rows_are_shouted(usual: str) -> None:
    counts = make().counts | {"rows_out": 12339}
    assert "The rows do not add up" in check(render(make(counts=counts))).text
    assert "The rows do not add up" not in usual


def test_a_poison_that_costs_nothing() -> None:
    page = render(make(accuracies={"clean": 94.0, "poisoned": 94.5, "purified": 91.5}))
    assert "nothing to recover" in page


def test_the_same_data_gives_the_same_page(usual: str) -> None:
    assert render(make()) == usual


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.417, "0.42 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert [number(v) for v in (1234567, 0.00123456, 12345.6, 999.96, -0.0, math.inf, math.nan)] == [
        "1,234,567", "0.001235", "12,346", "1000", "0", "∞", "n/a",
    ]  # fmt: skip
    assert [size(v) for v in (0, 1023, 1536, 3 * 2**40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 TiB"]


def test_median_of_a_histogram() -> None:
    assert _median([0.0, 1.0, 2.0], [1, 1]) == 1.0
    assert _median([0.0, 1.0, 2.0, 4.0], [1, 1, 4]) == 2.5
    assert math.isnan(_median([0.0, 1.0], [0])) and math.isnan(_median([0.0, math.inf], [3]))
    values = np.random.default_rng(0).normal(28, 2, 5000)
    counts, edges = np.histogram(values, np.arange(10, 60.5, 0.5))
    assert _median(list(edges), [int(c) for c in counts]) == pytest.approx(np.median(values), abs=0.05)

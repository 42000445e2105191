"""The manual of what is shipped: every instruction, real uses, a page that needs nothing else."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

import infinisa
from infinisa import api
from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.isa.language import Node
from infinisa.manual import manual
from infinisa.runtime.report.manual import Manual, markdown, page

MACHINES = ("tiny", "edge")


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def norms() -> Model:
    """Two layers, each a norm and a product that is too deep for one issue."""
    b = Builder("norms")
    x: Node = b.input("x", "s d", (24, 600))
    for layer in range(2):
        weight = b.weight(f"weight{layer}", "f d", random(600, 600))
        scale = b.weight(f"scale{layer}", "d", random(600))
        with b.named(f"layers.{layer}"):
            square = infinisa.mean(x * x, "d")
            normed = b.name("norm", x * infinisa.rsqrt(square + 1e-5) * scale)
            product = b.name("product", infinisa.dot(normed, weight, "d"))
            x = infinisa.view(product, {"f": "d"})
    b.graph("main").output("y", x)
    return b.model()


@pytest.fixture(scope="module")
def found() -> Manual:
    return manual([api.load(norms())], MACHINES)


def test_every_loaded_instruction_has_a_section(found: Manual) -> None:
    """Once in the text, once on the page, once in its index, with its plugin."""
    registry = api.load(norms()).registry
    text, html = markdown(found), page(found)
    titles = Counter(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    sections = Counter(re.findall(r'<article id="(\w+)"', html))
    links = Counter(re.findall(r'<li><a href="#(\w+)"', html))

    names = Counter(registry.instructions.keys())
    assert titles - Counter(["Index"]) == sections == links == names
    for registered in registry.instructions.values():
        assert f"<code>{registered.origin.plugin}</code>" in html


def test_a_section_says_where_a_model_uses_its_instruction(found: Manual) -> None:
    """By the names of the source, layers together, pieces under the name of the whole."""
    (norm,) = [entry for entry in found.entries if entry.name == "rms_norm"]
    (product,) = [entry for entry in found.entries if entry.name == "matmul"]
    text = markdown(found)

    assert [(use.graph, use.part, use.nodes) for use in norm.uses] == [
        ("main", "", ("layers.0.norm", "layers.1.norm"))
    ]
    assert [use.part for use in product.uses] == [".step"]
    assert "`layers.0–1.norm`" in text
    assert "| norms | main | `matmul.step` | 2 |" in text
    (busy,) = product.busy
    assert (busy.model, busy.unit, busy.share) == ("norms", "matrix", 1.0)
    assert "Not used by norms." in text


def test_a_law_leads_to_the_whole_and_back(found: Manual) -> None:
    (step, whole, finish) = (
        re.split(r"^## ", markdown(found), flags=re.MULTILINE)[number]
        for number in section_numbers(found, "flash_step", "attention", "flash_finish")
    )

    assert "it equals [attention](#attention)." in step
    assert "In laws of [flash_step](#flash_step)." in whole
    for name in ("causal_flash_step", "flash_step", "masked_flash_step"):
        assert f"[{name}](#{name})" in finish


def section_numbers(found: Manual, *names: str) -> list[int]:
    titles = re.findall(r"^## (\w+)$", markdown(found), re.MULTILINE)
    return [titles.index(name) + 1 for name in names]


def test_an_opaque_instruction_shows_its_body(found: Manual) -> None:
    text, html = markdown(found), page(found)

    assert "Opaque: a body in restricted Python, chosen by its name." in text
    assert "best[s * width + k] = value + scores[s * width + k]" in text
    assert "best[s * width + k] = value + scores[s * width + k]" in html


# ---------------------------------------------------------------- the page


VOID = {"meta", "input"}


class Checker(HTMLParser):
    """Notes ids, links, and tags that are not closed where they must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("id"):
            self.ids[str(given["id"])] += 1
        if given.get("href"):
            self.links.add(str(given["href"]))
        self.sources += [f"{tag} {key}" for key in given if key in ("src", "srcset", "data")]
        self.sources += [tag] if tag in ("link", "iframe", "object", "img") else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.faults.append(f"</{tag}> at {self.getpos()}")


def test_the_page_is_well_formed(found: Manual) -> None:
    """Tags nest, without style and script it is XML, ids are unique, links lead somewhere."""
    html = page(found)
    checker = Checker()
    checker.feed(html)
    checker.close()
    bare = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    ElementTree.fromstring(bare.removeprefix("<!DOCTYPE html>\n"))

    assert checker.faults == []
    assert checker.open == []
    assert set(checker.ids.values()) == {1}
    assert checker.links <= {f"#{name}" for name in checker.ids}


def test_the_page_needs_no_other_file(found: Manual) -> None:
    """Nothing is fetched: no address, no import, no source of its own."""
    html = page(found)
    checker = Checker()
    checker.feed(html)

    assert checker.sources == []
    for word in ("http:", "https:", "url(", "@import", "fetch(", "import("):
        assert word not in html


def test_what_a_plugin_says_cannot_break_the_page(found: Manual) -> None:
    """Signs that mean something to HTML or Markdown arrive as they were written."""
    first = found.entries[0]
    rude = replace(first.instruction, documentation='<b>&"*x*" `a<b` | </article>')
    rude = replace(rude, source="```")
    entry = replace(first, instruction=rude)
    text, html = (render(replace(found, entries=(entry,))) for render in (markdown, page))
    checker = Checker()
    checker.feed(html)

    assert checker.faults == []
    assert "<p>&lt;b&gt;&amp;&quot;*x*&quot; <code>a&lt;b</code> | &lt;/article&gt;</p>" in html
    assert r'\<b>&"\*x\*" `a<b` \| \</article>' in text
    assert "\n````python\n```\n````\n" in text

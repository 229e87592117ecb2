"""A parser of pages for the tests."""

from __future__ import annotations

import html.parser


class Reader(html.parser.HTMLParser):
    """Checks nesting, and collects ids, links and image sources."""

    VOID = ("meta", "img", "br", "link", "path", "use", "rect", "line", "input")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [value for key, value in attrs if key in ("href", "xlink:href")]
        self.sources += [named["src"]] if "src" in named else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def read(page_text):
    reader = Reader()
    reader.feed(page_text)
    assert reader.open == []
    return reader

"""Every format gives its text; every bad file says what is wrong with it. The PDFs are made here, by PyMuPDF."""

import json

import pymupdf
import pytest

from radit_job.rag.documents import Document, Unreadable, list_files, read_documents
from radit_job.rag.markup import text_of_html, text_of_markdown

BODY = "The turbine is inspected every ninety days by two engineers of the plant."


def read(path):
    return list(read_documents(path, path.name))


def make_pdf(path, pages, **save):
    """`pages`: for each page a list of (x, y, text)."""
    with pymupdf.open() as document:
        for lines in pages:
            page = document.new_page()
            for x, y, text in lines:
                page.insert_text((x, y), text, fontsize=10)
        document.save(path, **save)
    return path


def test_pdf_pages_keep_their_numbers_and_lose_header_and_footer(tmp_path):
    pages = [
        [(72, 40, "Plant handbook"), (72, 300, f"Page body {word} speaks."), (290, 815, str(number))]
        for number, word in enumerate(("alpha", "beta", "gamma", "delta"), start=1)
    ]
    (document,) = read(make_pdf(tmp_path / "a.pdf", pages))
    assert document.pages == tuple(f"Page body {word} speaks." for word in ("alpha", "beta", "gamma", "delta"))
    assert document.has_pages


def test_pdf_pages_without_text_are_pages(tmp_path):
    path = tmp_path / "paper.pdf"
    with pymupdf.open() as document:
        document.new_page()
        document.new_page().insert_text((72, 300), "The second page has a sentence.")
        document.new_page()
        document.save(path)
    [document] = read_documents(path, "paper.pdf")
    assert [page.strip() for page in document.pages] == ["", "The second page has a sentence.", ""]


def test_pdf_columns_are_read_one_after_the_other_and_words_are_joined(tmp_path):
    left = [
        (72, 100, "The first column is pub-"),
        (72, 112, "lished by nobody in par-"),
        (72, 124, "ticular and ends here."),
    ]
    right = [(320, 100, "The second column fol-"), (320, 112, "lows behind it.")]
    (document,) = read(make_pdf(tmp_path / "a.pdf", [left + right]))
    first, second = (
        document.text.index("published by nobody in particular"),
        document.text.index("second column follows"),
    )
    assert first < second


def test_pdf_word_broken_by_a_page_end_goes_to_the_first_page(tmp_path):
    pages = [[(72, 100, "It is the founda-")], [(72, 100, "tion of everything.")]]
    (document,) = read(make_pdf(tmp_path / "a.pdf", pages))
    assert document.pages == ("It is the foundation", "of everything.")


def scanned(path):
    with pymupdf.open() as document:
        picture = pymupdf.Pixmap(pymupdf.csRGB, pymupdf.IRect(0, 0, 50, 50), False)
        picture.clear_with(200)
        document.new_page().insert_image(pymupdf.Rect(0, 0, 500, 500), pixmap=picture)
        document.save(path)


def encrypted(path):
    make_pdf(path, [[(72, 100, BODY)]], encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")


def truncated(path):
    make_pdf(path, [[(72, 72 + 12 * line, BODY) for line in range(40)] for _ in range(20)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD = {
    "scanned.pdf": (scanned, "scanned", "ocrmypdf"),
    "encrypted.pdf": (encrypted, "encrypted", "qpdf"),
    "truncated.pdf": (truncated, "truncated", "whole file"),
    "zero.pdf": (lambda path: path.write_bytes(b""), "0 bytes", "remove"),
    "not.pdf": (lambda path: path.write_bytes(b"plain words"), "not a PDF", "file again"),
    "binary.txt": (lambda path: path.write_bytes(bytes(range(256)) * 20), "binary", "remove"),
    "latin.txt": (lambda path: path.write_bytes("café".encode("latin-1")), "not UTF-8", "iconv"),
    "blank.md": (lambda path: path.write_text(" \n\n"), "no text", "remove"),
    "broken.json": (lambda path: path.write_text('[{"text": "a"},\n{"text": ]'), "line 2 is not JSON", "repair"),
    "other.json": (lambda path: path.write_text('{"a": 1}'), "without documents", "rows with a text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_say_what_is_wrong_and_what_to_do(tmp_path, name):
    make, reason, remedy = BAD[name]
    make(tmp_path / name)
    (item,) = read(tmp_path / name)
    assert isinstance(item, Unreadable)
    assert item.name == name
    assert reason in item.reason
    assert remedy in item.remedy


def test_jsonl_reads_the_good_lines_and_names_the_broken_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "text": "One."}\n{"text": \n{"content": "Three."}\n')
    first, broken, third = read(path)
    assert (first.name, first.text) == ("a.jsonl#x", "One.")
    assert isinstance(broken, Unreadable)
    assert broken.name == "a.jsonl:2"
    assert (third.name, third.text) == ("a.jsonl#2", "Three.")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{"doc_id": "x", "content": "Text."}], "a.json#x"),
        ({"documents": [{"text": "Text."}]}, "a.json#0"),
        ([{"id_": "n1", "text_resource": {"text": "Text."}, "class_name": "Document"}], "a.json#n1"),
        ({"docstore/data": {"n1": {"__data__": {"id_": "n1", "text": "Text."}}}}, "a.json#n1"),
        (["Text."], "a.json#0"),
        ({"data": [{"title": "T", "paragraphs": [{"context": "Text.", "qas": [{"question": "Q?"}]}]}]}, "a.json/T#0"),
    ],
)
def test_json_forms(tmp_path, content, name):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert [(item.name, item.text) for item in read(tmp_path / "a.json")] == [(name, "Text.")]


@pytest.mark.parametrize(
    ("good", "bad", "name", "reason"),
    [
        ({"data": [{"paragraphs": [{"context": "Text."}]}, "loose"]}, 1, "a.json/1", "no article with paragraphs"),
        ({"data": [{"paragraphs": [{"context": "Text."}]}, {"paragraphs": None}]}, 1, "a.json/1", "no article"),
        ({"data": [{"paragraphs": [{"context": "Text."}, "loose"]}]}, 1, "a.json/0#1", "has no text"),
        ([{"__data__": '{"text": "Te'}, {"text": "Text."}], 0, "a.json#0", "__data__ is not JSON"),
        ([{"__data__": "[1]"}, {"text": "Text."}], 0, "a.json#0", "has no text"),
    ],
)
def test_a_malformed_record_is_named_and_the_others_are_read(tmp_path, good, bad, name, reason):
    (tmp_path / "a.json").write_text(json.dumps(good))
    items = list(read(tmp_path / "a.json"))
    assert isinstance(items[bad], Unreadable)
    assert items[bad].name == name
    assert reason in items[bad].reason
    assert items[1 - bad].text == "Text."


def test_a_real_llama_index_document_is_read(tmp_path):
    from llama_index.core import Document as LlamaDocument

    (tmp_path / "a.json").write_text(json.dumps([LlamaDocument(text="Text.", id_="d1").to_dict()]))
    (item,) = read(tmp_path / "a.json")
    assert isinstance(item, Document)
    assert (item.name, item.text) == ("a.json#d1", "Text.")


def test_html_drops_scripts_and_navigation_and_keeps_structure():
    page = (
        "<html><head><title>T</title><style>x{}</style></head><body><nav>Home</nav><h1>T</h1>"
        "<p>One <b>bold</b>\nword.</p><script>alert(1)</script><!-- hidden --><ul><li>a</li><li>b</li></ul>"
        "<table><tr><td>1</td><td>2</td></tr></table></body></html>"
    )
    text = text_of_html(page)
    lines = [line for line in text.split("\n") if line.strip()]
    assert lines == ["# T", "One bold word.", "- a", "- b", "1 | 2"]


def test_markdown_keeps_structure_and_drops_link_targets():
    source = (
        "---\ntitle: x\n---\n# Head\n\nSee [the *guide*](http://x) and `code`.\nSame line.\n\n- a\n- b\n  1. c\n\n"
        "| h | i |\n|---|---|\n| 1 | 2 |\n\n```\nraw  code\n```\n"
    )
    lines = [line for line in text_of_markdown(source).split("\n") if line]
    assert lines == [
        "# Head",
        "See the guide and code. Same line.",
        "- a",
        "- b",
        "  1. c",
        "h | i",
        "1 | 2",
        "raw  code",
    ]


def test_files_are_listed_by_name_and_hidden_ones_are_not(tmp_path):
    for name in ("b.txt", "a/c.md", "a/.hidden.txt", "x.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    known, unknown = list_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in known] == ["a/c.md", "b.txt"]
    assert [path.name for path in unknown] == ["x.docx"]

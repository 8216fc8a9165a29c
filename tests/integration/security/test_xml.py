"""XML from anywhere is parsed without entities, files or network: by every parser of the package, and in effect."""

import ast
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lxml import etree

import nexus_tasks
from nexus_tasks.builder.readers.xml_text import parse_xml
from nexus_tasks.builder.schema import InvalidRecordError, RecordSchema, parse_record
from nexus_tasks.exporters.cdcs import ownership
from nexus_tasks.exporters.cdcs import schema as cdcs_schema
from nexus_tasks.exporters.labarchives import api as labarchives_api
from nexus_tasks.xsd import CompiledSchema, UnusableSchemaError

PACKAGE = Path(nexus_tasks.__file__).parent
PARSING = {"parse", "fromstring", "XML", "fromstringlist", "iterparse", "XMLID", "parseid"}
OTHER_LIBRARIES = {"xml", "defusedxml", "xmltodict", "bs4"}
LIMITED = {"exporters/labarchives/api.py": "huge_tree"}  # texts may be long there: the answer's size is limited
SECRET = "nobody-may-read-this"
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BILLION_LAUGHS = f'<!DOCTYPE Experiment [<!ENTITY l0 "haha">{LAUGHS}]><Experiment a="&l9;"><id>&l9;</id></Experiment>'


ANYTHING = CompiledSchema(
    b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="a"/><xs:element name="Experiment"/>'
    b"</xs:schema>"
)


class Visited(HTTPServer):
    """Counts who comes."""

    visits = 0


@pytest.fixture
def lure() -> Iterator[Visited]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.visits += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!ENTITY stolen 'stolen'>")

        def log_message(self, *_: object) -> None:
            pass

    server = Visited(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def labarchives_answer(xml: str) -> object:
    return etree.fromstring(xml.encode(), labarchives_api._PARSER)


PARSERS: dict[str, Callable[[str], object]] = {
    "enqueue": lambda xml: parse_record(xml.encode()),
    "the schema check": lambda xml: RecordSchema(
        Path(nexus_tasks.__file__).parent / "builder/nexus-experiment.xsd"
    ).validate(xml.encode()),
    "a schema from a CDCS": lambda xml: RecordSchema(xml.encode()),
    "the check before CDCS": lambda xml: cdcs_schema.schema_of(xml).errors_in(xml.encode()),
    "the check of a large document before CDCS": lambda xml: ANYTHING.accepts(xml.encode()),
    "the look-up in CDCS": ownership.identifiers_in,
    "an answer of LabArchives": labarchives_answer,
    "a microscope file": parse_xml,
}


def shown(result: object) -> str:
    return etree.tostring(result, encoding="unicode") if isinstance(result, etree._Element) else str(result)


def outcome(parse: Callable[[str], object], xml: str) -> str:
    """What comes of it, or why nothing does."""
    try:
        return shown(parse(xml))
    except (InvalidRecordError, UnusableSchemaError, etree.LxmlError) as error:
        return str(error)


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_entities_do_not_multiply(parse: Callable[[str], object]) -> None:
    assert len(outcome(parse, BILLION_LAUGHS)) < 10_000


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_a_file_of_the_machine_is_not_read(parse: Callable[[str], object], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET, encoding="utf-8")
    xml = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><a><id>&x;</id></a>'
    assert SECRET not in outcome(parse, xml)


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_nothing_is_fetched(parse: Callable[[str], object], lure: Visited) -> None:
    url = f"http://127.0.0.1:{lure.server_port}/a.dtd"
    for xml in (
        f'<!DOCTYPE a SYSTEM "{url}"><a><id>&stolen;</id></a>',
        f'<!DOCTYPE a [<!ENTITY % p SYSTEM "{url}">%p;]><a><id>&stolen;</id></a>',
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "{url}">]><a><id>&x;</id></a>',
        f'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{url}" parse="text"/></a>',
        f'<a xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:schemaLocation="urn:a {url}"/>',
        f'<schema xmlns="http://www.w3.org/2001/XMLSchema"><include schemaLocation="{url}"/></schema>',
    ):
        outcome(parse, xml)
    assert lure.visits == 0


def test_every_parser_of_the_package_is_closed_off() -> None:
    """Each call that parses gets a parser, and each parser is made without entities and network."""
    wrong, looked_at = [], 0
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if imported(node) & OTHER_LIBRARIES:
                wrong.append(f"{where}: lxml is the one way to read XML")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                problem = unsafe(node, node.func, LIMITED.get(file.relative_to(PACKAGE).as_posix()))
                looked_at += problem is not None
                wrong += [f"{where}: {problem}"] if problem else []
    assert wrong == []
    assert looked_at > 8


def imported(node: ast.AST) -> set[str]:
    """The packages that a statement imports."""
    names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return {name.partition(".")[0] for name in names}


def unsafe(call: ast.Call, called: ast.Attribute, allowed: str | None) -> str | None:
    """What is wrong with a call that has to do with parsing, an empty text if nothing is; None for other calls.

    `allowed` is an option that may be on.
    """
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if called.attr in {"XMLParser", "iterparse"}:
        if options.get("resolve_entities") != "False" or options.get("no_network") != "True":
            return "the parser expands entities or uses the network"
        unbounded = {"huge_tree", "load_dtd", "dtd_validation"} & {
            name for name, on in options.items() if on != "False" and name != allowed
        }
        return f"the parser has {', '.join(sorted(map(str, unbounded)))}" if unbounded else ""
    if called.attr in PARSING and ast.unparse(called.value) == "etree":
        own_text = ast.unparse(call.args[0]) == "xsd"  # the stand-in's, from the one who starts it
        return "" if len(call.args) > 1 or "parser" in options or own_text else "no parser is given"
    return None

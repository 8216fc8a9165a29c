"""How a CDCS site is set up, by which some of its answers differ; `service` gives it to the calls."""

from dataclasses import dataclass, field

from lxml import etree

ANY_EXPERIMENT_XSD = """<?xml version="1.0" encoding="UTF-8"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" elementFormDefault="qualified"
  targetNamespace="https://data.nist.gov/od/dm/nexus/experiment/v1.0">
  <xs:element name="Experiment" type="xs:anyType"/>
</xs:schema>
"""


@dataclass(frozen=True)
class Installation:
    """One site, as `Cdcs` describes it; `schema` is made of `xsd` where records are validated."""

    token: str = field(repr=False)
    administrator: bool
    document_field: str
    xsd: str
    schema: etree.XMLSchema | None

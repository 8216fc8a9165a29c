"""What FEI's TIA writes into the tif files of Titan and Tecnai microscopes: its description, in tags 65450 to 65452."""

from nexus_tasks.builder.files import DataFile
from nexus_tasks.builder.readers.tia_description import describe
from nexus_tasks.builder.readers.tif_acquisition import Tags, TifAcquisition
from nexus_tasks.builder.readers.xml_text import parse_xml

TAGS = (65450, 65451, 65452)


def acquisition(tags: Tags, _file: DataFile) -> TifAcquisition | None:
    """What the tags say; None when none of them holds a description."""
    for code in TAGS:
        root = parse_xml(tags.document(code))
        if root is not None:
            description = describe(root)
            if description.facts:
                return TifAcquisition(
                    "TIA", description.facts, description.acquired, diffraction=description.reciprocal
                )
    return None

"""Which files are data by their names; `record_builder` asks it under `NX_FILE_STRATEGY=exclusive`.

The list is written down here, and not asked of RosettaSciIO, because that is GPL-3 and runs in the child process only;
a test compares the two.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# RosettaSciIO's, in lower case
MICROSCOPE_FORMATS = _words("""
    ali app5 asw bcf blo csv de5 dens dm3 dm4 eds elid emd emi ems emsa h5 hdf5 hspy img lsd map mas mib mrc mrcz msa
    msp nc npy nxs pro prz pts rpl sac sbc ser spc spd spi spx sur tif tiff tvf tvips unf wdf xml zspy
""")

PICTURES = _words("bmp dib gif jpe jpeg jpg pbm pcx pgm png ppm svg webp xbm")

TEXT = _words("csv htm html ini json log md pdf rtf tsv txt xml yaml yml")

# Nothing here understands them, but instruments write them: they stand in a record with name, size and time.
OTHER_DATA = _words("""
    ang avi bin cpr crc ctf czi dat eer gtg h5oina hdr ibw ims lif lsm mdoc mp4 mrcs nd2 nid oh5 oib oif ome osc raw
    rec spm st sxm tdms vsi xrdml zip
""")

KNOWN_EXTENSIONS = MICROSCOPE_FORMATS | PICTURES | TEXT | OTHER_DATA


def is_known(name: str) -> bool:
    """Whether a file of that name is read here, or looks like data."""
    return "." in name and name.rpartition(".")[2].lower() in KNOWN_EXTENSIONS

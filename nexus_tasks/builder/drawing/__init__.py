"""Draws previews of what readers find: images, stacks, spectra, diffraction patterns. In the child process only."""

"""From published data sets to training records: sources, images, splits, formats, tables."""

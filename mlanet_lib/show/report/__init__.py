"""The report: `report` builds it from the results of all stages, `tables` makes its rows, and `page` fills its
templates into one self-contained HTML page."""

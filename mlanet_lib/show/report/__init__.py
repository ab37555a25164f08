"""The report: `report` builds it from the results of all stages, `sections` judges, `page` is a self-contained HTML
page."""
